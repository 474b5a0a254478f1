#include "launch/commands/model_codec.h"

#include "launch/train/checkpoint_weights.h"

namespace wuneng {

ModelCodec open_codec(const std::string& what, const std::string& model, const std::string& tokenizer,
                      const std::string& chat_template, int64_t vocab) {
  ModelCodec out;
  out.directory = tokenizer.empty() ? tokenizer_of(model) : tokenizer;
  const bool found = tokenizer.empty() ? TextCodec::has_tokenizer(out.directory) : tokenizer != "bytes";
  require(found || tokenizer == "bytes" || vocab == 256,
          "{}: {}: expected tokenizer.json or vocab.json, or a byte model (vocabulary 256), found a "
          "vocabulary of {} and no tokenizer; use --tokenizer",
          what, model, vocab);
  if (found)
    out.codec = TextCodec::load(out.directory, chat_template);
  else
    out.directory.clear();
  require(out.codec.vocab_size() <= vocab,
          "{}: expected a tokenizer of at most {} ids, the size of the model's vocabulary, found {}", what,
          vocab, out.codec.vocab_size());
  return out;
}

}  // namespace wuneng

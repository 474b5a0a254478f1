// A tokenizer's directory of which one file is arbitrary (first byte: which one). One that is taken must
// encode and decode.
#include <vector>

#include "data/text/chat_template.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/utf8.h"
#include "runtime/file.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace wuneng;

void use(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<int32_t> ids;
  tokenizer.encode(text.substr(0, 300), ids);
  ids.push_back(-1);
  ids.push_back(tokenizer.vocab_size());
  std::string buffer;
  const std::string decoded = tokenizer.decode(ids);
  if (replace_invalid_utf8(decoded, buffer) != decoded) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::Directory directory;
  static const std::string files[] = {"tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"};
  static const std::string golden = WUNENG_SEEDS "/tokenizer_parts/";
  fuzz::Input input(data, size);
  const unsigned arbitrary = input.byte() % 5;
  for (unsigned i = 0; i < 4; ++i) {
    // tokenizer.json alone, or beside an arbitrary configuration (4); else the other form of the files.
    const bool whole = arbitrary == 0 || arbitrary == 4;
    std::filesystem::remove(directory.path() + "/" + files[i]);
    if (i == arbitrary || (arbitrary == 4 && i == 1))
      directory.write(files[i], input.rest());
    else if (whole ? i == 0 : i > 0)
      directory.write(files[i], read_file(golden + files[i]));
  }
  fuzz::accepted(directory, [&] { use(Tokenizer::load(directory.path()), input.rest()); });
  if (arbitrary == 1) fuzz::accepted(directory, [&] { ChatTemplate::load(directory.path()); });
  return 0;
}

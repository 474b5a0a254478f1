// `wuneng tokenize`: text and JSON lines to token files, with a progress bar.
#include "data/text/tokenize.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>

#include "launch/commands/commands.h"
#include "runtime/error.h"
#include "runtime/format.h"

namespace wuneng {
namespace {

class Bar {
 public:
  void show(const TokenizeProgress& p) {
    using Clock = std::chrono::steady_clock;
    const Clock::time_point now = Clock::now();
    const auto since = now - last_;
    if (since < (terminal_ ? std::chrono::milliseconds(100) : std::chrono::seconds(10))) return;
    last_ = now;
    const double share = p.bytes_total > 0 ? double(p.bytes_read) / double(p.bytes_total) : 1;
    constexpr int kWidth = 16;  // the line must fit 80 columns: a wrapped line cannot be redrawn
    const int full = static_cast<int>(share * kWidth);
    const std::string line =
        fmt::format("[{}{}] {:3.0f}%  {} records  {} tokens  {} tok/s  {} left{}", std::string(full, '#'),
                    std::string(kWidth - full, '.'), 100 * share, short_count(double(p.records)),
                    short_count(double(p.tokens)), short_count(double(p.tokens) / std::max(p.seconds, 1e-9)),
                    share > 0 ? clock_time(p.seconds / share - p.seconds) : "?",
                    p.bad_lines > 0 ? fmt::format("  {} bad", short_count(double(p.bad_lines))) : "");
    std::printf(terminal_ ? "\r\033[K%s" : "%s\n", line.c_str());
    open_ = terminal_;
    std::fflush(stdout);
  }
  // Later output begins on a new line.
  ~Bar() {
    if (open_) std::printf("\n");
  }

 private:
  bool terminal_ = stdout_is_terminal(), open_ = false;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// A shell passes "\n" as two characters.
std::string unescape(std::string text) {
  for (size_t at = 0; (at = text.find("\\n", at)) != std::string::npos; ++at) text.replace(at, 2, "\n");
  return text;
}

TextOptions text_options(const TokenizeCommand& c) {
  TextOptions o;
  o.paths = c.paths;
  o.extensions = c.extensions;
  o.format = c.format == "text"    ? TextFormat::text
             : c.format == "jsonl" ? TextFormat::json_lines
                                   : TextFormat::by_name;
  o.encoding = c.encoding;
  o.ignored = c.ignored;
  o.separator = unescape(c.separator);
  o.longest = c.longest_bytes;
  o.on_bad = c.bad_lines == "skip" ? OnBadLine::skip : OnBadLine::stop;
  return o;
}

DataKind choose_kind(const TokenizeCommand& c, const TextOptions& text) {
  for (const DataKind kind : {DataKind::text, DataKind::supervised, DataKind::preference})
    if (c.kind == to_string(kind)) return kind;
  Record first;
  require(TextSource(text).next(first), "tokenize: expected at least one record in {}, found none",
          fmt::join(c.paths, ", "));
  return kind_of(first);
}

std::optional<int32_t> choose_end(const TokenizeCommand& c, const TextCodec& codec) {
  if (c.end == "none") return std::nullopt;
  if (c.end == "auto") return codec.end_of_text();
  const auto id = codec.id_of(c.end);
  require(id.has_value(), "tokenize: --end {}: expected a token of the tokenizer, found no such token",
          c.end);
  return id;
}

TokenType smallest_type(int32_t vocab) {
  return vocab <= 1 << 8 ? TokenType::u8 : vocab <= 1 << 16 ? TokenType::u16 : TokenType::i32;
}

void report(const TokenizeProgress& p, const TokenizeOptions& o, DataKind kind) {
  for (const std::string& prefix : o.prefixes)
    std::printf("wrote %s.bin and .idx%s\n", prefix.c_str(),
                o.loss_mask ? fmt::format(", and the loss mask in {}_mask", prefix).c_str() : "");
  std::printf("%s %s, %s tokens, %s of them with a loss, in %s (%s tokens/s)\n", thousands(p.records).c_str(),
              kind == DataKind::preference ? "pairs" : "documents", thousands(p.tokens).c_str(),
              thousands(p.loss_tokens).c_str(), clock_time(p.seconds).c_str(),
              thousands(static_cast<int64_t>(double(p.tokens) / std::max(p.seconds, 1e-9))).c_str());
  if (!p.others.empty())
    std::printf("members of records that were not used: %s\n",
                fmt::format("{}", fmt::join(p.others, ", ")).c_str());
  if (!p.left_out.empty()) std::printf("%s\n", describe_left_out(p.left_out).c_str());
  if (p.empty > 0) std::printf("skipped %s records without tokens\n", thousands(p.empty).c_str());
  if (p.bad_lines == 0) return;
  std::fprintf(stderr, "skipped %s bad lines, the first of them:\n", thousands(p.bad_lines).c_str());
  for (const std::string& line : p.first_bad) std::fprintf(stderr, "  %s\n", line.c_str());
}

}  // namespace

void tokenize(const TokenizeCommand& c) {
  const TextOptions text = text_options(c);
  const TextCodec codec =
      c.tokenizer == "bytes" ? TextCodec::bytes() : TextCodec::load(c.tokenizer, c.chat_template);
  codec.check_chat_options(c.chat_options);
  const DataKind kind = choose_kind(c, text);
  const RecordEncoder encoder(codec, kind, choose_end(c, codec), c.kind == "auto", c.chat_options);
  TokenizeOptions o;
  o.text = text;
  o.type = smallest_type(codec.vocab_size());
  o.loss_mask = kind != DataKind::text;
  o.prefixes = kind == DataKind::preference ? std::vector<std::string>{c.out + "_chosen", c.out + "_rejected"}
                                            : std::vector<std::string>{c.out};
  if (const auto folder = std::filesystem::path(c.out).parent_path(); !folder.empty())
    std::filesystem::create_directories(folder);
  std::printf("%s data, tokenizer %s (%d ids)\n", to_string(kind), c.tokenizer.c_str(), codec.vocab_size());
  std::fflush(stdout);
  TokenizeProgress done;
  {
    Bar bar;
    done = tokenize_files(o, encoder, [&](const TokenizeProgress& p) { bar.show(p); });
  }
  report(done, o, kind);
}

}  // namespace wuneng

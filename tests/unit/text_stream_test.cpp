// TextStream against the whole text at once: every way to cut random bytes into tokens gives the text that
// decoding and searching all of them gives.
#include "data/tokenizer/text_stream.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <random>

#include "data/tokenizer/utf8.h"
#include "tests/error_of.h"

namespace wuneng::text_stream_test {
namespace {

using testing::HasSubstr;

// The text before the stop string that ends first (of those, the one that begins first).
std::string at_once(const std::string& bytes, const std::vector<std::string>& stops) {
  size_t begin = bytes.size();
  for (size_t end = 0; end <= bytes.size() && begin == bytes.size(); ++end)
    for (const std::string& stop : stops)
      if (end >= stop.size() && bytes.compare(end - stop.size(), stop.size(), stop) == 0)
        begin = std::min(begin, end - stop.size());
  std::string buffer;
  return std::string(replace_invalid_utf8(std::string_view(bytes).substr(0, begin), buffer));
}

TEST(TextStream, IsWhatTheWholeTextGives) {
  std::mt19937 random(5);
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  const std::vector<std::string> pieces = {"a",    "b",        "ab",   "é",    "\xe2\x82",     "€",  "\xac",
                                           "\xff", "\xf0\x9f", "\x98", "\x80", "\xed\xa0\x80", "\n", "\xc3"};
  const std::vector<std::string> possible = {"ab", "b\n", "aab", "€a", "é", "\n\n", "abab", "bé€"};
  int stopped = 0;
  for (int trial = 0; trial < 20000; ++trial) {
    std::string bytes;
    for (size_t n = below(12); n > 0; --n) bytes += pieces[below(pieces.size())];
    std::vector<std::string> stops;
    for (size_t n = below(4); n > 0; --n) stops.push_back(possible[below(possible.size())]);
    const std::string expected = at_once(bytes, stops);
    TextStream stream(stops);
    std::string text;
    for (size_t at = 0; at < bytes.size();) {
      const size_t n = std::min(bytes.size() - at, below(4));
      const std::string more = stream.push(std::string_view(bytes).substr(at, n));
      EXPECT_EQ(find_invalid_utf8(more), more.size());
      text += more;
      ASSERT_TRUE(expected.starts_with(text)) << "given out too early, trial " << trial;
      at += n;
    }
    text += stream.finish();
    ASSERT_EQ(text, expected) << "trial " << trial;
    stopped += stream.stopped();
  }
  EXPECT_GT(stopped, 2000);
}

TEST(TextStream, GivesOutWhatIsCertainAtOnce) {
  TextStream stream({"END"});
  EXPECT_EQ(stream.push("caf\xc3"), "caf");
  EXPECT_EQ(stream.push("\xa9"), "é");
  EXPECT_EQ(stream.push("x EN"), "x ");
  EXPECT_EQ(stream.given_out(), 7u);
  EXPECT_EQ(stream.push("OUGH E"), "ENOUGH ");
  EXPECT_EQ(stream.push("ND and more"), "");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.push("ignored"), "");
  EXPECT_EQ(stream.finish(), "");
  TextStream cut;
  EXPECT_EQ(cut.push("\xe2\x82"), "");
  EXPECT_EQ(cut.finish(), "\ufffd");
}

TEST(TextStream, RefusesStopStringsThatCannotBe) {
  EXPECT_THAT(error_of([] { TextStream({""}); }), HasSubstr("found an empty one"));
  EXPECT_THAT(error_of([] { TextStream({"\xff"}); }), HasSubstr("expected UTF-8"));
}

}  // namespace
}  // namespace wuneng::text_stream_test

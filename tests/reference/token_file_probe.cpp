// Token files through our reader and writer, for check_megatron.py: documents as lines of token ids.
//
//   token_file_probe write PREFIX TYPE   from standard input
//   token_file_probe read PREFIX         to standard output
#include <iostream>
#include <sstream>

#include "data/token_files/token_writer.h"
#include "runtime/error.h"

using namespace wuneng;

namespace {

void write(const std::string& prefix, const std::string& type) {
  for (const TokenType t :
       {TokenType::u8, TokenType::i8, TokenType::i16, TokenType::i32, TokenType::i64, TokenType::u16})
    if (type == token_type_name(t)) {
      TokenWriter writer(prefix, t);
      for (std::string line; std::getline(std::cin, line);) {
        std::istringstream in(line);
        writer.add(std::vector<int32_t>(std::istream_iterator<int32_t>(in), {}));
      }
      return writer.finish();
    }
  fail("no type {}", type);
}

void read(const std::string& prefix) {
  const TokenFile file = TokenFile::open(prefix);
  std::vector<int32_t> tokens;
  for (int64_t d = 0; d < file.documents(); ++d) {
    const int64_t begin = file.document_begin(d);
    tokens.resize(file.document_begin(d + 1) - begin);
    file.read(begin, static_cast<int64_t>(tokens.size()), int64_t{1} << 31, tokens.data());
    std::cout << fmt::format("{}\n", fmt::join(tokens, " "));
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> a(argv + 1, argv + argc);
  try {
    if (a.size() == 3 && a[0] == "write")
      write(a[1], a[2]);
    else if (a.size() == 2 && a[0] == "read")
      read(a[1]);
    else
      fail("expected write PREFIX TYPE or read PREFIX");
  } catch (const std::exception& e) {
    std::cerr << e.what() << "\n";
    return 1;
  }
  return 0;
}

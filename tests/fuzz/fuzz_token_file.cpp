// An .idx of arbitrary bytes over a .bin of some size (first two bytes), and the same index as a mask of
// itself (third byte odd). What is taken must be readable to its last token.
#include <vector>

#include "data/token_files/token_file.h"
#include "tests/fuzz/fuzz.h"

using namespace wuneng;

namespace {

void use(const TokenFile& file, const std::string& where) {
  if (file.document_begin(file.documents()) != file.tokens()) std::abort();
  for (int64_t d = 0; d < file.documents(); ++d) {
    const int64_t begin = file.document_begin(d), end = file.document_begin(d + 1);
    if (begin < 0 || begin > end || end > file.tokens()) std::abort();
    std::vector<int32_t> tokens(static_cast<size_t>(end - begin));
    file.read(begin, end - begin, int64_t{1} << 31, tokens.data());
  }
  int64_t total = 0;
  for (int64_t s = 0; s < file.sequences(); ++s) total += file.sequence_length(s);
  if (total != file.tokens()) fail("{}: {} tokens in sequences of {} together", where, file.tokens(), total);
  file.fingerprint();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::Directory directory;
  fuzz::Input input(data, size);
  const size_t low = input.byte(), high = input.byte();
  const bool mask = input.byte() % 2;
  const std::string bin((high % 16) << 8 | low, '\1');
  std::filesystem::remove(directory.path() + "/t_mask.idx");
  directory.write("t.idx", input.rest());
  directory.write("t.bin", bin);
  if (mask) {
    directory.write("t_mask.idx", input.rest());
    directory.write("t_mask.bin", bin);
  }
  fuzz::accepted(directory, [&] {
    const TokenFile file = TokenFile::open(directory.path() + "/t");
    use(file, directory.path());
    if (mask) TokenFile::open_mask(file);
  });
  return 0;
}

// model.safetensors of arbitrary bytes, or (first byte odd) an arbitrary index of a good file. What is taken
// must give tensors that can be read to their last byte.
#include <cstring>

#include "runtime/file.h"
#include "runtime/safetensors.h"
#include "tests/fuzz/fuzz.h"

using namespace wuneng;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::Directory files, indexed;
  static const bool written = [] {
    indexed.write("model-00001-of-00001.safetensors", read_file(WUNENG_SEEDS "/safetensors_parts/model"));
    return true;
  }();
  (void)written;
  fuzz::Input input(data, size);
  const bool index = input.byte() % 2;
  const fuzz::Directory& directory = index ? indexed : files;
  directory.write(index ? "model.safetensors.index.json" : "model.safetensors", input.rest());
  fuzz::accepted(directory, [&] {
    const SafetensorsDirectory opened(directory.path());
    for (const std::string& name : opened.names()) {
      const Tensor tensor = opened.tensor(name);
      std::string copy(static_cast<size_t>(tensor.bytes()), '\0');
      if (!copy.empty()) std::memcpy(copy.data(), tensor.raw(), copy.size());
      if (tensor.shape() != opened.entry(name).shape) std::abort();
    }
  });
  return 0;
}

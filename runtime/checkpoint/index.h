// index.h5: virtual datasets that show every tensor of a checkpoint whole, under its name, in one file.
#pragma once
#include "runtime/checkpoint/manifest.h"

namespace wuneng {

// Writes DIRECTORY/index.h5 for the manifest's shard files and tensors.
StoredFile write_index(const std::string& directory, const Manifest& manifest);

}  // namespace wuneng

#include "runtime/error.h"

#include <mutex>

namespace wuneng {
namespace {

struct Name {
  std::mutex mutex;
  std::string value;
};
Name& name() {
  static Name one;
  return one;
}

}  // namespace

void set_rank_name(std::string value) {
  const std::lock_guard lock(name().mutex);
  name().value = std::move(value);
}

std::string rank_name() {
  const std::lock_guard lock(name().mutex);
  return name().value;
}

}  // namespace wuneng

#include "runtime/error.h"

namespace wuneng {
namespace {
std::string& name() {
  static std::string value;
  return value;
}
}  // namespace

void set_rank_name(std::string value) { name() = std::move(value); }
const std::string& rank_name() { return name(); }

}  // namespace wuneng

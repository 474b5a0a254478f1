// Errors. A message states what was expected, what was found and where; main() adds the rank's name.
#pragma once
#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace wuneng {

// The exception type of all errors.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// fail("tensor {}: expected {} rows, found {}", ...) throws Error.
template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

// require(condition, format, ...) for errors in input; the message states expected, found and where.
template <class... Args>
void require(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) [[unlikely]]
    throw Error(fmt::format(format, std::forward<Args>(args)...));
}

// This rank's name in messages, e.g. "rank 3 (student dp0 pp1 tp0)"; empty in a single process.
// Any thread may ask.
void set_rank_name(std::string name);
std::string rank_name();

}  // namespace wuneng

// For internal invariants; the message has file and line.
#define WUNENG_ASSERT(condition)                                                          \
  do {                                                                                    \
    if (!(condition)) [[unlikely]]                                                        \
      ::wuneng::fail("{}:{}: internal check failed: {}", __FILE__, __LINE__, #condition); \
  } while (false)

#include "runtime/format.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>

namespace wuneng {

std::string thousands(int64_t n) {
  std::string text = std::to_string(n);
  for (int at = static_cast<int>(text.size()) - 3; at > (n < 0); at -= 3) text.insert(at, ",");
  return text;
}

std::string clock_time(double seconds) {
  const int64_t s = std::llround(seconds);
  return s >= 3600 ? fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
                   : fmt::format("{}:{:02}", s / 60, s % 60);
}

std::string short_count(double n) {
  constexpr const char* kUnits[] = {"", "k", "M", "G", "T"};
  int unit = 0;
  for (; n >= 1000 && unit < 4; ++unit) n /= 1000;
  return fmt::format("{:.{}f}{}", n, unit == 0 || n >= 100 ? 0 : n >= 10 ? 1 : 2, kUnits[unit]);
}

// mpirun may give every rank a pseudo-terminal whatever its own stdout is; launch/mpi.sh passes on what that
// is.
bool stdout_is_terminal() {
  const char* said = std::getenv("WUNENG_TERMINAL");
  return said ? *said == '1' : !std::getenv("OMPI_COMM_WORLD_SIZE") && isatty(STDOUT_FILENO);
}

}  // namespace wuneng

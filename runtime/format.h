// Formatting for terminal output.
#pragma once
#include <cstdint>
#include <string>

namespace wuneng {

std::string thousands(int64_t n);        // 12,345
std::string clock_time(double seconds);  // 0:42, 1:02:03
std::string short_count(double n);       // 12.3k, 4.56M, 7.8G
bool stdout_is_terminal();               // the stdout of the launching shell, also under mpirun

}  // namespace wuneng

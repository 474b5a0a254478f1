// Names: of this host, and random ones.
#pragma once
#include <string>

namespace wuneng {

std::string host_name();     // "unknown host" where the system has none
std::string random_token();  // 32 hexadecimal digits from the system's random numbers

}  // namespace wuneng

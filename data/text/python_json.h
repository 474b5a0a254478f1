// JSON as Python's json.dumps(value, ensure_ascii=False) writes it, which chat templates use.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace wuneng {

// Keys in insertion order, separators ", " and ": ", floats as in repr() (1.0, 1e-05, 1e+16). Binary
// values are the digits of integers beyond 64 bits (data/text/exact_json.h).
void append_python_json(const nlohmann::ordered_json& value, std::string& out);

}  // namespace wuneng

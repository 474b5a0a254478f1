// JSON as Python's json.dumps(value, ensure_ascii=False) writes it, which chat templates use.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace wuneng {

// Keys in insertion order, separators ", " and ": ", floats as in repr() (1.0, 1e-05, 1e+16). Binary
// values are the digits of integers beyond 64 bits (data/text/exact_json.h).
// indent: each element on a line of its own, as with json.dumps(value, indent=indent); 0: all on one line.
void append_python_json(const nlohmann::ordered_json& value, std::string& out, int indent = 0);

}  // namespace wuneng

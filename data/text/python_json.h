// JSON as Python's json.dumps(value, ensure_ascii=False) writes it: what chat templates put before a model.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace wuneng {

// Keys in their order, ", " and ": " between, floats as repr() writes them (1.0, 1e-05, 1e+16). An integer
// beyond 64 bits has become a float when the JSON was read, and is written as one.
void append_python_json(const nlohmann::ordered_json& value, std::string& out);

}  // namespace wuneng

// JSON from files, with nothing lost.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace wuneng {

using Json =
    nlohmann::ordered_json;  // ordered: chat templates print tools and arguments in their original order

// An integer beyond 64 bits keeps its digits: it is a binary value of them (append_python_json writes it out
// again). Throws an Error, beginning with `what`, for what is no JSON, JSON nested too deep
// (runtime/json_depth.h) and an object with a key twice, of which a reader would take the first or the last.
Json parse_exact_json(std::string_view text, const std::string& what);

}  // namespace wuneng

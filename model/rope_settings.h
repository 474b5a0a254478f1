// The rotary embedding in a config.json, in the spellings of transformers' versions.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace wuneng {

// The base of the rotary embedding: rope_theta, also inside rope_parameters or rope_scaling; 10000 where
// there is none. Throws where two differ, and for an embedding that is scaled: a type other than "default",
// with a factor other than 1.
float read_rope_theta(const nlohmann::json& config, const std::string& where);

}  // namespace wuneng

// What was found, in an error message: the beginning of its JSON.
#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "runtime/error.h"

namespace wuneng {

// Made when the message is: the arguments of require() are evaluated for every merge of a tokenizer and every
// token of a request. J: one of nlohmann's types.
template <class J>
struct ShownJson {
  const J* value;  // null: nothing was found
};
template <class J>
ShownJson(const J*) -> ShownJson<J>;

}  // namespace wuneng

template <class J>
struct fmt::formatter<wuneng::ShownJson<J>> : fmt::formatter<std::string_view> {
  template <class Context>
  auto format(const wuneng::ShownJson<J>& shown, Context& context) const {
    std::string text = "none";
    if (shown.value) text = shown.value->dump(-1, ' ', false, J::error_handler_t::replace);
    if (text.size() > 200) text = text.substr(0, 200) + "...";
    return fmt::formatter<std::string_view>::format(text, context);
  }
};

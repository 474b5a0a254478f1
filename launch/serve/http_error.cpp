#include "launch/serve/http_error.h"

#include <nlohmann/json.hpp>

namespace wuneng::serving {

std::string error_json(int status, const std::string& message, const std::string& param,
                       const std::string& code) {
  const auto text_or_null = [](const std::string& text) {
    return text.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(text);
  };
  const char* type = status >= 500   ? "server_error"
                     : status == 429 ? "rate_limit_error"
                                     : "invalid_request_error";
  const nlohmann::ordered_json error = {
      {"message", message}, {"type", type}, {"param", text_or_null(param)}, {"code", text_or_null(code)}};
  // A message may name bytes of the request that are no UTF-8.
  return nlohmann::ordered_json{{"error", error}}.dump(-1, ' ', false,
                                                       nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace wuneng::serving

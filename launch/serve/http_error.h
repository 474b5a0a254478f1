// HttpError: a request that is not answered, and why. In JSON it has OpenAI's form
// {"error": {"message", "type", "param", "code"}}.
#pragma once
#include <string>

#include "runtime/error.h"

namespace wuneng::serving {

class HttpError : public Error {
 public:
  // param: the member of the request that is wrong. code: a word for programs. Both may be empty.
  HttpError(int status, const std::string& message, std::string param = "", std::string code = "")
      : Error(message), status_(status), param_(std::move(param)), code_(std::move(code)) {}
  int status() const { return status_; }
  const std::string& param() const { return param_; }
  const std::string& code() const { return code_; }

 private:
  int status_;
  std::string param_, code_;
};

// A member of a request that is wrong; the message begins with its name.
template <class... Args>
void require_member(bool condition, const std::string& name, fmt::format_string<Args...> format,
                    Args&&... args) {
  if (!condition) [[unlikely]]
    throw HttpError(400, name + ": " + fmt::format(format, std::forward<Args>(args)...), name);
}

std::string error_json(int status, const std::string& message, const std::string& param,
                       const std::string& code);

}  // namespace wuneng::serving

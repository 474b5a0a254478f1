// The token that requests must show, and what may be said to a server without one.
#pragma once
#include <string>
#include <string_view>

namespace wuneng::serving {

// The one line of a file that its owner alone may read and write. Throws for another mode or owner than 0600
// and this user, and for what is no token: 16 to 1024 printable characters of ASCII without spaces.
std::string read_bearer_token(const std::string& path);

// Whether an Authorization header is "Bearer TOKEN". Takes as long for a token that is nearly right as for
// any other.
bool shows_token(std::string_view header, std::string_view token);

// Whether a Host header names this machine by an address or as localhost. A web page of another name that
// resolves to this machine (DNS rebinding) does not.
bool is_local_host(std::string_view header);

}  // namespace wuneng::serving

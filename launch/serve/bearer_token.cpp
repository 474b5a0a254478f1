#include "launch/serve/bearer_token.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/ip/address.hpp>
#include <boost/beast/core/string.hpp>

#include "runtime/error.h"
#include "runtime/file.h"

namespace wuneng::serving {
namespace {

constexpr size_t kShortest = 16, kLongest = 1024;

}  // namespace

std::string read_bearer_token(const std::string& path) {
  const FileDescriptor file(path, O_RDONLY | O_CLOEXEC);
  struct stat status = {};
  require(fstat(file.fd(), &status) == 0, "{}: its mode cannot be read", path);
  require(S_ISREG(status.st_mode), "{}: expected a file with a token, found no regular file", path);
  require((status.st_mode & 07777) == 0600 && status.st_uid == geteuid(),
          "{}: expected a file of mode 0600 of this user (chmod 600), found mode {:04o} of user {}", path,
          status.st_mode & 07777, status.st_uid);
  require(status.st_size <= static_cast<off_t>(kLongest + 1),
          "{}: expected a token of {} to {} characters, found {} bytes", path, kShortest, kLongest,
          status.st_size);
  std::string token(status.st_size, '\0');
  file.read(0, token.data(), std::ssize(token));
  if (token.ends_with('\n')) token.pop_back();
  require(token.size() >= kShortest && token.size() <= kLongest &&
              std::all_of(token.begin(), token.end(), [](char c) { return c > ' ' && c < 127; }),
          "{}: expected one line of {} to {} printable characters without spaces, found another content",
          path, kShortest, kLongest);
  return token;
}

bool shows_token(std::string_view header, std::string_view token) {
  constexpr std::string_view kScheme = "Bearer ";
  const bool scheme =
      boost::beast::iequals(boost::beast::string_view(header.data(), std::min(header.size(), kScheme.size())),
                            boost::beast::string_view(kScheme.data(), kScheme.size()));
  if (!scheme) return false;
  header.remove_prefix(kScheme.size());
  unsigned different = header.size() != token.size();
  for (size_t i = 0; i < header.size(); ++i)
    different |= static_cast<unsigned char>(header[i]) ^ static_cast<unsigned char>(token[i % token.size()]);
  return different == 0;
}

bool is_local_host(std::string_view header) {
  std::string host(header);
  const size_t bracket = host.find(']');
  const size_t colon = host.find(':', bracket == host.npos ? 0 : bracket);
  host = host.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  boost::system::error_code error;
  boost::asio::ip::make_address(host, error);
  return !error || boost::beast::iequals(host, "localhost");
}

}  // namespace wuneng::serving

#include "runtime/heartbeat_messages.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <sys/socket.h>

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "runtime/error.h"
#include "runtime/file.h"

namespace wuneng::heartbeat {
namespace {

using nlohmann::json;

// What `read` makes of a text of JSON; nothing where it is no such JSON.
template <class T, class F>
std::optional<T> parsed(const std::string& text, const F& read) {
  const json j = json::parse(text, nullptr, false);
  if (!j.is_object()) return std::nullopt;
  try {
    return read(j);
  } catch (const json::exception&) {
    return std::nullopt;
  }
}

std::string line(const json& j) { return j.dump(-1, ' ', false, json::error_handler_t::replace) + "\n"; }

}  // namespace

std::string to_line(const Beat& beat) {
  const RankState& s = beat.state;
  return line({{"token", beat.token},
               {"rank", s.rank},
               {"kind", static_cast<int>(s.kind)},
               {"seconds", s.seconds},
               {"name", s.name},
               {"host", s.host},
               {"pid", s.pid},
               {"place", s.place},
               {"call", s.call},
               {"peers", to_ranges(s.peers)},
               {"hang", beat.hang}});
}

std::optional<Beat> beat_from(const std::string& text) {
  return parsed<Beat>(text, [](const json& j) {
    Beat out;
    j.at("token").get_to(out.token);
    RankState& s = out.state;
    j.at("rank").get_to(s.rank);
    s.kind = static_cast<RankState::Kind>(j.at("kind").get<int>());
    j.at("seconds").get_to(s.seconds);
    j.at("name").get_to(s.name);
    j.at("host").get_to(s.host);
    j.at("pid").get_to(s.pid);
    j.at("place").get_to(s.place);
    j.at("call").get_to(s.call);
    s.peers = from_ranges(j.at("peers").get<std::string>());
    j.at("hang").get_to(out.hang);
    return out;
  });
}

std::string to_line(const Order& order) { return line({{"end", order.end}, {"kill", order.kill}}); }

std::optional<Order> order_from(const std::string& text) {
  return parsed<Order>(text, [](const json& j) {
    Order out;
    j.at("end").get_to(out.end);
    j.at("kill").get_to(out.kill);
    return out;
  });
}

void publish(const std::string& path, const Address& a) {
  const std::string text =
      json({{"job", a.job}, {"token", a.token}, {"port", a.port}, {"hosts", a.hosts}}).dump();
  OutputFile out(path, 0600);
  out.append(text.data(), static_cast<int64_t>(text.size()));
  out.commit();
}

std::optional<Address> published(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) return std::nullopt;
  return parsed<Address>(text.str(), [](const json& j) {
    Address out;
    j.at("job").get_to(out.job);
    j.at("token").get_to(out.token);
    j.at("port").get_to(out.port);
    j.at("hosts").get_to(out.hosts);
    return out;
  });
}

std::vector<std::string> addresses_of_this_host() {
  std::vector<std::string> out;
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) fail("getifaddrs: {}", std::strerror(errno));
  for (const ifaddrs* i = all; i; i = i->ifa_next) {
    if (!i->ifa_addr || !(i->ifa_flags & IFF_UP) || (i->ifa_flags & IFF_LOOPBACK)) continue;
    const int family = i->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    char text[NI_MAXHOST];
    const socklen_t size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    if (getnameinfo(i->ifa_addr, size, text, sizeof text, nullptr, 0, NI_NUMERICHOST) != 0) continue;
    if (!std::strchr(text, '%')) out.emplace_back(text);  // link-local addresses have a scope
  }
  freeifaddrs(all);
  if (out.empty()) out.emplace_back("127.0.0.1");
  return out;
}

}  // namespace wuneng::heartbeat

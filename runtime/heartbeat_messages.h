// What is sent over the heartbeat's connections, one line of JSON a message, and where collectors listen.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "runtime/hang_report.h"

namespace wuneng::heartbeat {

// From a rank to a collector.
struct Beat {
  std::string token;  // of the collector, which proves that the rank has read its file
  RankState state;
  bool hang = false;  // it has waited too long
};
std::string to_line(const Beat& beat);
std::optional<Beat> beat_from(const std::string& line);  // nothing: it is none

// From a collector to a rank.
struct Order {
  bool end = false;                                   // end now; else: tell your state now
  std::vector<std::pair<std::string, int64_t>> kill;  // host and process of ranks that do not answer
};
std::string to_line(const Order& order);
std::optional<Order> order_from(const std::string& line);

// Where a collector listens: PATH holds it from publish() until it is removed.
struct Address {
  std::string job;    // launcher::job(): tells a file that a former run has left
  std::string token;  // random
  int port = 0;
  std::vector<std::string> hosts;  // numeric addresses
};
void publish(const std::string& path, const Address& address);  // throws where it cannot be written
std::optional<Address> published(const std::string& path);      // nothing: not yet

// Numeric addresses under which other hosts may reach this one.
std::vector<std::string> addresses_of_this_host();

}  // namespace wuneng::heartbeat

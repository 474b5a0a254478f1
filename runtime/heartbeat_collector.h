// The collector of a heartbeat (heartbeat.h): listens, keeps what every rank has told last, and reports a
// hang. All its calls and handlers run in the heartbeat's thread; none blocks.
#pragma once
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/streambuf.hpp>
#include <memory>

#include "runtime/heartbeat_messages.h"
#include "runtime/host.h"
#include "runtime/watchdog.h"

namespace wuneng::heartbeat {

class Collector {
 public:
  // Listens and publishes it. lower: the collectors that go before this one. Throws where it cannot.
  Collector(boost::asio::io_context& io, int ranks, std::vector<int> lower, std::string file);
  ~Collector();

  // Called every 50 ms or so. Returns true when it has reported a hang and this process is to end.
  bool tick();
  // A collector that goes before this one has asked for this rank's state: it will report.
  void other_reports() { other_reports_ = true; }
  void all_have_started() { started_ = watchdog::seconds_awake(); }

 private:
  struct Session;
  enum class Phase { watching, taking_turns, asking, ending };

  void accept();
  void read(const std::shared_ptr<Session>& session);
  void send(const std::shared_ptr<Session>& session, const Order& order);
  void write(const std::shared_ptr<Session>& session);
  void begin(Phase phase);
  double since_begin() const { return watchdog::seconds_awake() - phase_begin_; }
  bool hang_found() const;
  double turn() const;
  bool all_have_answered() const;
  std::vector<RankState> states() const;
  void report();
  void warn_of_missing();

  const std::vector<int> lower_;
  const std::string file_, token_ = random_token();
  boost::asio::ip::tcp::acceptor acceptor_;
  std::vector<std::shared_ptr<Session>> sessions_;  // by rank; null: not connected yet
  Phase phase_ = Phase::watching;
  double phase_begin_ = 0, started_ = 0;
  bool other_reports_ = false, warned_ = false;
};

}  // namespace wuneng::heartbeat

// Server: HTTP on a socket, by threads of its own, until a signal asks it to stop.
#pragma once
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "launch/serve/generation_loop.h"
#include "launch/serve/metrics.h"
#include "launch/serve/service.h"

namespace wuneng::serving {

struct ServerLimits {
  int64_t body_bytes = int64_t{16} << 20;
  int64_t connections = 512;
  std::chrono::seconds read{30};   // for a request to come, from the connection's begin or the last answer
  std::chrono::seconds write{30};  // without a byte of an answer taken
  std::chrono::seconds grace{30};  // for requests under way, after a signal
};

class Connection;

class Server {
 public:
  // Binds to the address; `port` 0: any. Throws where that is not possible.
  Server(const std::string& host, int port, const ServerLimits& limits, std::string token);
  ~Server();

  std::string url() const;  // "http://127.0.0.1:8000"
  Metrics& metrics() { return metrics_; }
  // Answers requests until signals::stop_requested(); those under way are answered to the end, for at most
  // limits.grace. `listening` is called when clients can connect.
  void run(const Service& service, GenerationEngine& engine, int64_t most_sequences,
           const std::function<void()>& listening);

  // For connections.
  const ServerLimits& limits() const { return limits_; }
  const std::string& token() const { return token_; }
  const Service& service() const { return *service_; }
  GenerationLoop& generation() { return *generation_; }
  bool stopping() const { return stopping_; }
  void opened(Connection* connection);
  void closed(Connection* connection);

 private:
  void accept();
  void refuse(boost::asio::ip::tcp::socket socket);
  void watch_signals();
  void begin_stop();

  const ServerLimits limits_;
  const std::string token_;
  Metrics metrics_;
  const Service* service_ = nullptr;
  std::atomic<bool> stopping_ = false;
  std::mutex mutex_;
  std::set<Connection*> connections_;

  boost::asio::io_context io_;
  boost::asio::ip::tcp::acceptor acceptor_{io_};
  boost::asio::steady_timer timer_{io_}, retry_{io_};
  std::chrono::steady_clock::time_point stop_at_;
  std::unique_ptr<GenerationLoop> generation_;
};

}  // namespace wuneng::serving

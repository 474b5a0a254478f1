#include "launch/serve/server.h"

#include <sys/socket.h>

#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/strand.hpp>
#include <cstdio>
#include <thread>
#include <vector>

#include "launch/serve/connection.h"
#include "launch/serve/http_error.h"
#include "runtime/signals.h"

namespace wuneng::serving {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using Failure = boost::system::error_code;

constexpr int kThreads = 2;  // that read, parse and write; one more runs the model
constexpr std::chrono::milliseconds kLookForSignals{50}, kRetry{100};

}  // namespace

Server::Server(const std::string& host, int port, const ServerLimits& limits, std::string token)
    : limits_(limits), token_(std::move(token)) {
  Failure error;
  const asio::ip::address address = asio::ip::make_address(host == "localhost" ? "127.0.0.1" : host, error);
  require(!error, "serve: --host {}: expected an address such as 127.0.0.1, 0.0.0.0 or ::1, or localhost",
          host);
  require(address.is_loopback() || !token_.empty(),
          "serve: --host {}: other machines reach this address: expected --token-file with it", host);
  const tcp::endpoint endpoint(address, static_cast<uint16_t>(port));
  try {
    acceptor_.open(endpoint.protocol());
    acceptor_.set_option(tcp::acceptor::reuse_address(true));
    acceptor_.bind(endpoint);
  } catch (const boost::system::system_error& e) {
    fail("serve: --host {} --port {}: the address cannot be used: {}", host, port, e.code().message());
  }
}

Server::~Server() = default;

std::string Server::url() const {
  const tcp::endpoint at = acceptor_.local_endpoint();
  const std::string address = at.address().to_string();
  return fmt::format("http://{}:{}", at.address().is_v6() ? "[" + address + "]" : address, at.port());
}

void Server::run(const Service& service, GenerationEngine& engine, int64_t most_sequences,
                 const std::function<void()>& listening) {
  service_ = &service;
  generation_ = std::make_unique<GenerationLoop>(engine, most_sequences, metrics_);
  acceptor_.listen();
  listening();
  accept();
  watch_signals();
  std::vector<std::thread> threads;
  for (int i = 1; i < kThreads; ++i) threads.emplace_back([this] { io_.run(); });
  io_.run();
  for (std::thread& thread : threads) thread.join();
  generation_.reset();
}

void Server::opened(Connection* connection) {
  const std::lock_guard lock(mutex_);
  connections_.insert(connection);
  ++metrics_.connections;
  ++metrics_.all_connections;
}

void Server::closed(Connection* connection) {
  const std::lock_guard lock(mutex_);
  connections_.erase(connection);
  --metrics_.connections;
}

void Server::accept() {
  acceptor_.async_accept(asio::make_strand(io_), [this](const Failure& error, tcp::socket socket) {
    if (stopping_) return;
    if (error) {  // such as too many open files: some will be closed
      retry_.expires_after(kRetry);
      return retry_.async_wait([this](const Failure& ended) {
        if (!ended && !stopping_) accept();
      });
    }
    if (metrics_.connections >= limits_.connections)
      refuse(std::move(socket));
    else
      std::make_shared<Connection>(std::move(socket), *this)->start();
    accept();
  });
}

// Says so where that takes no waiting.
void Server::refuse(tcp::socket socket) {
  metrics_.count_answer(503);
  const std::string body = error_json(
      503,
      fmt::format("{} connections are open, at most that many may; try again later", limits_.connections), "",
      "too_many_connections");
  const std::string answer = fmt::format(
      "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
      "Retry-After: 1\r\nContent-Length: {}\r\n\r\n{}",
      body.size(), body);
  [[maybe_unused]] const ssize_t sent =
      ::send(socket.native_handle(), answer.data(), answer.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

void Server::watch_signals() {
  timer_.expires_after(kLookForSignals);
  timer_.async_wait([this](const Failure&) {
    if (stopping_) {
      if (metrics_.connections == 0 || std::chrono::steady_clock::now() >= stop_at_) return io_.stop();
    } else if (const int signal = signals::stop_requested()) {
      std::fprintf(stderr, "wuneng: %s: requests under way are answered, for at most %ld s\n",
                   signals::name(signal), static_cast<long>(limits_.grace.count()));
      begin_stop();
    }
    watch_signals();
  });
}

void Server::begin_stop() {
  stopping_ = true;
  stop_at_ = std::chrono::steady_clock::now() + limits_.grace;
  Failure ignored;
  acceptor_.close(ignored);
  const std::lock_guard lock(mutex_);
  for (Connection* connection : connections_)
    if (const auto alive = connection->weak_from_this().lock()) alive->stop();
}

}  // namespace wuneng::serving

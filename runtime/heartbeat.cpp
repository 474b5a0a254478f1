#include "runtime/heartbeat.h"

#include <signal.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <istream>
#include <set>
#include <thread>

#include "runtime/error.h"
#include "runtime/hash.h"
#include "runtime/heartbeat_collector.h"
#include "runtime/host.h"
#include "runtime/launcher.h"
#include "runtime/watchdog.h"

namespace wuneng::heartbeat {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using Error = boost::system::error_code;

constexpr auto kTick = std::chrono::milliseconds(50);
constexpr auto kLauncher = std::chrono::milliseconds(1200);
constexpr double kLongestInterval = 2;  // seconds between beats
constexpr double kRetry = 0.5;          // seconds between attempts to connect, but without pause ...
constexpr double kStart = 5;            // ... in the first seconds, when collectors start too
constexpr double kConnect = 5;          // seconds that an attempt may take
constexpr std::string_view kFilePrefix = ".heartbeat.";
constexpr auto kOldFile = std::chrono::hours(24);
constexpr size_t kLongestOrder = 1 << 20;

// The ranks that collect, by rank.
std::vector<int> collectors(int ranks) {
  const std::set<int> out = {0, ranks / 2, ranks - 1};
  return {out.begin(), out.end()};
}

std::string hash_of_job() {
  const std::string job = launcher::job();
  return hash_text(hash_of(job.data(), std::ssize(job)));
}

void say_not_set_up(const char* problem) {
  std::fprintf(stderr, "wuneng: heartbeat: %s; a hang may be reported by every rank for itself\n", problem);
}

// This rank's connection to one collector.
class Client {
 public:
  using OnOrder = std::function<void(const Order&)>;
  Client(asio::io_context& io, std::string file, OnOrder on_order)
      : file_(std::move(file)), socket_(io), on_order_(std::move(on_order)) {}

  bool connected() const { return link_ == Link::open; }

  // Called every kTick.
  void tick(bool hang) {
    const double now = watchdog::seconds_awake(), timeout = watchdog::timeout();
    const double interval = timeout > 0 ? std::clamp(timeout / 5, 0.2, kLongestInterval) : kLongestInterval;
    if (link_ == Link::closed && now >= next_) connect(now);
    if (link_ == Link::connecting && now - next_ > kConnect) close();
    if (link_ == Link::open && (now >= next_ || (hang && !hang_told_))) beat(hang);
    if (link_ == Link::open && now >= next_) next_ = now + interval;
  }

  void beat(bool hang) {
    if (link_ != Link::open || writing_) return;
    Beat beat{token_, watchdog::snapshot(), hang};
    beat.state.host = host_;
    output_ = to_line(beat);
    writing_ = true;
    hang_told_ = hang;
    asio::async_write(socket_, asio::buffer(output_), [this](const Error& error, size_t) {
      writing_ = false;
      if (error) close();
    });
  }

 private:
  enum class Link { closed, connecting, open };

  void connect(double now) {
    next_ = now < kStart ? now : now + kRetry;
    const std::optional<Address> address = published(file_);
    if (!address || address->job != launcher::job()) return;
    std::vector<tcp::endpoint> endpoints;
    for (const std::string& host : address->hosts) {
      Error error;
      const auto parsed = asio::ip::make_address(host, error);
      if (!error) endpoints.emplace_back(parsed, static_cast<uint16_t>(address->port));
    }
    token_ = address->token;
    link_ = Link::connecting;
    next_ = now;
    asio::async_connect(socket_, endpoints, [this](const Error& error, const tcp::endpoint&) {
      if (error) return close();
      link_ = Link::open;
      beat(false);
      read();
    });
  }

  void read() {
    asio::async_read_until(socket_, input_, '\n', [this](const Error& error, size_t) {
      if (error) return close();
      std::string line;
      std::istream input(&input_);
      std::getline(input, line);
      if (const auto order = order_from(line)) on_order_(*order);
      read();
    });
  }

  void close() {
    Error ignored;
    socket_.close(ignored);
    input_.consume(input_.size());
    link_ = Link::closed;
    hang_told_ = false;
    next_ = watchdog::seconds_awake() < kStart ? 0 : watchdog::seconds_awake() + kRetry;
  }

  const std::string file_, host_ = host_name();
  std::string token_, output_;
  tcp::socket socket_;
  asio::streambuf input_{kLongestOrder};
  OnOrder on_order_;
  Link link_ = Link::closed;
  double next_ = 0;  // beat or attempt; connecting: when it began
  bool writing_ = false, hang_told_ = false;
};

// A rank's part of the heartbeat, in a thread of its own.
class Heart {
 public:
  using End = void (*)(bool reporter);
  Heart(std::string directory, End end, int rank, int ranks)
      : directory_(std::move(directory)), end_(end), rank_(rank), ranks_(ranks) {
    thread_ = std::thread([this] { run(); });
  }
  ~Heart() {
    io_.stop();
    thread_.join();
    collector_.reset();
    if (made_directory_) remove_directory();
  }

  void all_have_started() {
    asio::post(io_, [this] {
      if (collector_) collector_->all_have_started();
    });
  }
  void finalize() { finalizing_ = true; }
  void hang() { hang_ = true; }
  bool in_touch() const { return in_touch_; }

 private:
  // One set of files a job: another run may wait in this directory for this one's end.
  std::string file_of(int collector) const {
    return fmt::format("{}/{}{}.{}", directory_, kFilePrefix, job_, collector);
  }

  // Killed runs leave their files.
  void remove_old_files() const {
    std::error_code error;
    const auto oldest = std::filesystem::file_time_type::clock::now() - kOldFile;
    for (const auto& entry : std::filesystem::directory_iterator(directory_, error)) {
      if (!entry.path().filename().string().starts_with(kFilePrefix)) continue;
      const auto written = entry.last_write_time(error);
      if (!error && written < oldest) std::filesystem::remove(entry.path(), error);
    }
  }

  // If the run has put nothing into it. The other collectors end now too, and remove their files.
  void remove_directory() const {
    for (int attempt = 0; attempt < 50; ++attempt) {
      std::error_code error;
      for (const auto& entry : std::filesystem::directory_iterator(directory_, error))
        if (!entry.path().filename().string().starts_with(kFilePrefix)) return;
      if (std::filesystem::remove(directory_, error) || !std::filesystem::exists(directory_, error)) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }

  // Whatever goes wrong, the run goes on.
  void run() {
    try {
      const std::vector<int> all = collectors(ranks_);
      collect(all);
      for (const int collector : all)
        clients_.push_back(std::make_unique<Client>(
            io_, file_of(collector), [this, collector](const Order& order) { obey(order, collector); }));
      tick();
      io_.run();
    } catch (const std::exception& e) {
      in_touch_ = false;
      if (rank_ == 0) say_not_set_up(e.what());
    }
  }

  void collect(const std::vector<int>& all) {
    const auto mine = std::find(all.begin(), all.end(), rank_);
    if (mine == all.end()) return;
    try {
      made_directory_ = std::filesystem::create_directories(directory_);
      if (rank_ == 0) remove_old_files();
      collector_ =
          std::make_unique<Collector>(io_, ranks_, std::vector<int>(all.begin(), mine), file_of(rank_));
    } catch (const std::exception& e) {
      if (rank_ == 0) say_not_set_up(e.what());
    }
  }

  void tick() {
    bool in_touch = false;
    for (const auto& client : clients_) {
      client->tick(hang_);
      in_touch = in_touch || client->connected();
    }
    in_touch_ = in_touch;
    if (collector_ && collector_->tick()) {
      std::error_code ignored;  // the other collectors will not be able to
      for (const int collector : collectors(ranks_)) std::filesystem::remove(file_of(collector), ignored);
      return end_(true);
    }
    timer_.expires_after(kTick);
    timer_.async_wait([this](const Error& error) {
      if (!error) tick();
    });
  }

  void obey(const Order& order, int collector) {
    if (!order.end) {
      if (collector_ && collector < rank_) collector_->other_reports();
      for (const auto& client : clients_) client->beat(hang_);
      return;
    }
    if (collector == rank_) return;  // tick() ends this process
    // The reporter asks the launcher to kill all ranks, which is fastest where none ends by itself.
    if (!finalizing_) std::this_thread::sleep_for(kLauncher);
    for (const auto& [host, pid] : order.kill)
      if (host == host_name() && pid > 1) kill(static_cast<pid_t>(pid), SIGKILL);
    end_(false);
  }

  const std::string directory_;
  const std::string job_ = hash_of_job();
  const End end_;
  const int rank_, ranks_;
  asio::io_context io_;
  asio::steady_timer timer_{io_};
  std::unique_ptr<Collector> collector_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::atomic<bool> hang_ = false, in_touch_ = false, finalizing_ = false;
  bool made_directory_ = false;
  std::thread thread_;
};

std::unique_ptr<Heart>& heart() {
  static std::unique_ptr<Heart> value;
  return value;
}

}  // namespace

void start(const std::string& directory, void (*end)(bool reporter)) {
  const int rank = launcher::rank(), ranks = launcher::ranks();
  if (ranks <= 1 || rank < 0 || rank >= ranks || directory.empty()) return;
  try {
    heart() = std::make_unique<Heart>(directory, end, rank, ranks);
  } catch (const std::system_error& e) {
    if (rank == 0) say_not_set_up(e.what());
  }
}

void all_have_started() {
  if (heart()) heart()->all_have_started();
}

void finalizing() {
  if (heart()) heart()->finalize();
}

bool tell_hang() {
  if (!heart()) return false;
  heart()->hang();
  return heart()->in_touch();
}

void stop() { heart().reset(); }

}  // namespace wuneng::heartbeat

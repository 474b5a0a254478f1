#include "runtime/heartbeat_collector.h"

#include <sys/resource.h>

#include <algorithm>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/write.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <istream>

#include "runtime/error.h"
#include "runtime/host.h"
#include "runtime/launcher.h"
#include "runtime/watchdog.h"

namespace wuneng::heartbeat {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using Error = boost::system::error_code;

constexpr size_t kLongestLine = 1 << 16;
constexpr double kTurn = 0.4;       // seconds that a collector leaves to one before it
constexpr double kAnswer = 0.5;     // seconds in which ranks answer a question
constexpr double kFresh = 1.0;      // seconds: heard later than that, a rank answers even if it is slow
constexpr double kReporting = 2;    // seconds after which the process of a report is gone in any case
constexpr double kConnecting = 20;  // seconds after MPI_Init in which all should be connected

// A connection a rank, and the run's own files.
void allow_many_files() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);  // where it fails, connections do, which warn_of_missing() says
}

// Of a process of this host: whether it is stopped. False where the kernel does not say.
bool is_stopped(int64_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string text;
  std::getline(file, text);
  const size_t name_end = text.rfind(')');  // "123 (wuneng) T ..."
  return name_end != std::string::npos && text.size() > name_end + 2 &&
         (text[name_end + 2] == 'T' || text[name_end + 2] == 't');
}

// On all addresses, of IPv6 and IPv4 where there are both.
void listen(tcp::acceptor& acceptor, bool one_host) {
  Error error;
  if (!one_host) {
    acceptor.open(tcp::v6(), error);
    if (!error) acceptor.set_option(asio::ip::v6_only(false), error);
    if (!error) acceptor.bind({tcp::v6(), 0}, error);
  }
  if (one_host || error) {
    if (acceptor.is_open()) acceptor.close();
    acceptor.open(tcp::v4());
    acceptor.bind(one_host ? tcp::endpoint(asio::ip::address_v4::loopback(), 0)
                           : tcp::endpoint(tcp::v4(), 0));
  }
  acceptor.listen();
}

}  // namespace

struct Collector::Session {
  explicit Session(tcp::socket connected) : socket(std::move(connected)) {}
  tcp::socket socket;
  asio::streambuf input{kLongestLine};
  std::string output, next;  // being written; to be written after it
  RankState state;
  double heard = 0;
  bool hang = false;  // it has waited too long
  bool closed = false;
};

Collector::Collector(asio::io_context& io, int ranks, std::vector<int> lower, std::string file)
    : lower_(std::move(lower)), file_(std::move(file)), acceptor_(io), sessions_(ranks) {
  const bool one_host = launcher::one_host();
  listen(acceptor_, one_host);
  publish(file_, {launcher::job(), token_, acceptor_.local_endpoint().port(),
                  one_host ? std::vector<std::string>{"127.0.0.1"} : addresses_of_this_host()});
  allow_many_files();
  accept();
}

Collector::~Collector() {
  std::error_code ignored;
  std::filesystem::remove(file_, ignored);
}

void Collector::accept() {
  acceptor_.async_accept([this](const Error& error, tcp::socket socket) {
    if (error == asio::error::operation_aborted) return;
    if (!error) read(std::make_shared<Session>(std::move(socket)));
    accept();
  });
}

void Collector::read(const std::shared_ptr<Session>& session) {
  asio::async_read_until(session->socket, session->input, '\n', [this, session](const Error& error, size_t) {
    std::string line;
    std::istream input(&session->input);
    std::optional<Beat> beat;
    if (!error && std::getline(input, line)) beat = beat_from(line);
    const bool valid = beat && beat->token == token_ && beat->state.rank >= 0 &&
                       beat->state.rank < static_cast<int>(sessions_.size());
    if (!valid) {
      session->closed = true;
      session->heard = watchdog::seconds_awake();
      Error ignored;
      session->socket.close(ignored);
      return;
    }
    session->state = std::move(beat->state);
    session->heard = watchdog::seconds_awake();
    session->hang = beat->hang;
    sessions_[session->state.rank] = session;
    read(session);
  });
}

void Collector::send(const std::shared_ptr<Session>& session, const Order& order) {
  if (!session || session->closed) return;
  session->next += to_line(order);
  write(session);
}

void Collector::write(const std::shared_ptr<Session>& session) {
  if (!session->output.empty() || session->next.empty()) return;
  session->output.swap(session->next);
  asio::async_write(session->socket, asio::buffer(session->output),
                    [this, session](const Error& error, size_t) {
                      session->output.clear();
                      if (!error) write(session);
                    });
}

void Collector::begin(Phase phase) {
  phase_ = phase;
  phase_begin_ = watchdog::seconds_awake();
}

bool Collector::hang_found() const {
  const double timeout = watchdog::timeout(), now = watchdog::seconds_awake();
  if (timeout <= 0) return false;
  return std::any_of(sessions_.begin(), sessions_.end(),
                     [&](const auto& s) { return s && !s->closed && (s->hang || now - s->heard > timeout); });
}

// Seconds after a hang was found at which this collector reports: those before it that are alive go first.
double Collector::turn() const {
  double out = other_reports_ ? 2 * kTurn + kAnswer : 0;
  for (const int rank : lower_)
    if (const auto& s = sessions_[rank];
        s && !s->closed && watchdog::seconds_awake() - s->heard < kFresh + kTurn)
      out += kTurn;
  return out;
}

bool Collector::tick() {
  switch (phase_) {
    case Phase::watching:
      if (!warned_) warn_of_missing();
      if (hang_found()) begin(Phase::taking_turns);
      break;
    case Phase::taking_turns:
      if (!hang_found()) begin(Phase::watching);  // who has told it is gone: another collector was first
      if (phase_ == Phase::watching || since_begin() < turn()) break;
      for (const auto& session : sessions_) send(session, {});
      begin(Phase::asking);
      break;
    case Phase::asking:
      if (!all_have_answered() && since_begin() < kAnswer) break;
      report();
      begin(Phase::ending);
      break;
    case Phase::ending:
      return true;
  }
  return false;
}

// All that are not silent already.
bool Collector::all_have_answered() const {
  return std::all_of(sessions_.begin(), sessions_.end(), [&](const auto& s) {
    return !s || s->closed || s->heard >= phase_begin_ || phase_begin_ - s->heard > kFresh;
  });
}

std::vector<RankState> Collector::states() const {
  const double now = watchdog::seconds_awake();
  const std::string here = host_name();
  std::vector<RankState> out(sessions_.size());
  for (size_t rank = 0; rank < out.size(); ++rank) {
    const auto& session = sessions_[rank];
    RankState& state = out[rank];
    if (session) state = session->state;
    state.rank = static_cast<int>(rank);
    if (!session) continue;
    const double unheard = now - session->heard;
    if (session->closed)
      state.kind = RankState::Kind::gone;
    else if (session->heard < phase_begin_ && unheard > kFresh)
      state.kind = RankState::Kind::silent;
    const bool answers = state.kind == RankState::Kind::waiting || state.kind == RankState::Kind::working;
    state.seconds = answers ? state.seconds + unheard : unheard;
    state.stopped = state.kind == RankState::Kind::silent && state.host == here && is_stopped(state.pid);
  }
  return out;
}

void Collector::report() {
  watchdog::kill_in(kReporting);
  const std::vector<RankState> all = states();
  const std::string text = hang_report(all);
  std::fputs(text.c_str(), stderr);
  std::fflush(stderr);
  Order order{true, {}};
  for (const RankState& state : all)
    if (state.kind == RankState::Kind::silent) order.kill.emplace_back(state.host, state.pid);
  for (const auto& session : sessions_) send(session, order);
}

void Collector::warn_of_missing() {
  if (started_ == 0 || watchdog::seconds_awake() - started_ < kConnecting || !lower_.empty()) return;
  warned_ = true;
  std::vector<int> missing;
  for (size_t rank = 0; rank < sessions_.size(); ++rank)
    if (!sessions_[rank]) missing.push_back(static_cast<int>(rank));
  if (missing.empty()) return;
  const std::string text = to_ranges(missing);
  std::fprintf(
      stderr,
      "wuneng: heartbeat: no connection from rank %s in %.0f s: a hang report will not know its state\n",
      text.c_str(), kConnecting);
}

}  // namespace wuneng::heartbeat

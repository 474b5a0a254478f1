#include "launch/serve/connection.h"

#include <sys/socket.h>

#include <atomic>
#include <boost/asio/post.hpp>
#include <boost/asio/strand.hpp>
#include <boost/beast/http/read.hpp>
#include <cerrno>

#include "launch/serve/bearer_token.h"
#include "launch/serve/http_error.h"

namespace wuneng::serving {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;

constexpr size_t kMostHeader = 16 << 10, kReadAhead = 64 << 10;  // bytes
constexpr size_t kMostPending = 4 << 20;                         // bytes of events that a client has not read
constexpr size_t kWriteAtOnce = 64 << 10;
constexpr size_t kMostDiscarded = 64 << 20;
constexpr std::chrono::seconds kLinger{2};  // for a client to read why its body is not read

double seconds_since(std::chrono::steady_clock::time_point then) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - then).count();
}

std::string new_id(bool chat) {
  static std::atomic<int64_t> next = 0;
  return fmt::format("{}-{:x}-{}", chat ? "chatcmpl" : "cmpl",
                     std::chrono::system_clock::now().time_since_epoch().count(), next++);
}

}  // namespace

Connection::Connection(asio::ip::tcp::socket socket, Server& server)
    : server_(server), stream_(std::move(socket)), buffer_(kReadAhead) {
  server_.opened(this);
}

Connection::~Connection() { server_.closed(this); }

void Connection::start() {
  asio::post(stream_.get_executor(), [self = shared_from_this()] { self->read_request(); });
}

void Connection::stop() {
  asio::post(stream_.get_executor(), [self = shared_from_this()] {
    if (!self->busy_) self->close();
  });
}

// ---- Reading

void Connection::read_request() {
  if (server_.stopping()) return close();
  busy_ = body_read_ = answered_ = false;
  parser_.emplace();
  parser_->header_limit(kMostHeader);
  parser_->body_limit(static_cast<uint64_t>(server_.limits().body_bytes));
  stream_.expires_after(server_.limits().read);
  http::async_read_header(
      stream_, buffer_, *parser_,
      [self = shared_from_this()](const Failure& error, size_t) { self->on_header(error); });
}

// Runs an action of a request; an error of it is the answer.
template <class Action>
void Connection::answering_errors(const Action& action) {
  try {
    action();
  } catch (const HttpError& e) {
    respond_error(e.status(), e.what(), e.param(), e.code());
  } catch (const Error& e) {
    respond_error(400, e.what());
  } catch (const std::exception& e) {
    std::fprintf(stderr, "wuneng: error: a request: %s\n", e.what());
    respond_error(500, fmt::format("internal error: {}", e.what()));
  }
}

void Connection::on_header(const Failure& error) {
  if (error == http::error::end_of_stream || error == beast::error::timeout ||
      (error && error.category() == asio::error::get_system_category()))
    return close();
  busy_ = true;
  keep_ = false;
  chunked_ = false;
  route_ = nullptr;
  if (error == http::error::body_limit)
    return respond_error(
        413, fmt::format("request body: expected at most {} bytes, found more", server_.limits().body_bytes));
  if (error == http::error::header_limit)
    return respond_error(431,
                         fmt::format("request header: expected at most {} bytes, found more", kMostHeader));
  if (error)
    return respond_error(400, fmt::format("expected a request of HTTP/1.1, found: {}", error.message()));
  const auto& request = parser_->get();
  const bool has_body = parser_->chunked() || parser_->content_length().value_or(0) > 0;
  body_read_ = !has_body;
  keep_ = request.keep_alive() && !has_body;  // until the body is read
  chunked_ = request.version() >= 11;
  answering_errors([&] { check_header(); });
  if (!answered_) read_body();
}

void Connection::check_header() {
  const auto& request = parser_->get();
  const auto text = [](beast::string_view s) { return std::string_view(s.data(), s.size()); };
  if (server_.stopping()) throw HttpError(503, "the server is stopping");
  route_ = &Service::route(text(request.target()));
  if (!route_->open) {
    if (!server_.token().empty() && !shows_token(text(request[http::field::authorization]), server_.token()))
      throw HttpError(401, "expected the server's token in a header, Authorization: Bearer TOKEN", "",
                      "invalid_api_key");
    if (server_.token().empty() && !is_local_host(text(request[http::field::host])))
      throw HttpError(403, fmt::format("Host: expected an address or localhost, found \"{}\"",
                                       text(request[http::field::host]).substr(0, 100)));
  }
  if (text(request.method_string()) != route_->method)
    throw HttpError(405, fmt::format("{}: expected {}, found {}", route_->path, route_->method,
                                     text(request.method_string()).substr(0, 20)));
  if (request.method() != http::verb::post) return;
  constexpr std::string_view kJson = "application/json";
  const std::string_view type = text(request[http::field::content_type]);
  if (!beast::iequals(beast::string_view(type.data(), std::min(type.size(), kJson.size())),
                      beast::string_view(kJson.data(), kJson.size())))
    throw HttpError(415, fmt::format("Content-Type: expected {}, found \"{}\"", kJson, type.substr(0, 100)));
}

void Connection::read_body() {
  if (beast::iequals(parser_->get()[http::field::expect], "100-continue") && !body_read_)
    send("HTTP/1.1 100 Continue\r\n\r\n");
  stream_.expires_after(server_.limits().read);
  http::async_read(stream_, buffer_, *parser_,
                   [self = shared_from_this()](const Failure& error, size_t) { self->on_body(error); });
}

void Connection::on_body(const Failure& error) {
  if (error == http::error::body_limit)
    return respond_error(
        413, fmt::format("request body: expected at most {} bytes, found more", server_.limits().body_bytes));
  if (error.category() == make_error_code(http::error::bad_chunk).category() &&
      error != http::error::partial_message && error != http::error::end_of_stream)
    return respond_error(400, fmt::format("request body: {}", error.message()));
  if (error) return close();
  body_read_ = true;
  keep_ = parser_->get().keep_alive();
  answering_errors([&] {
    auto result = server_.service().handle(*route_, parser_->get().body());
    if (const Answer* answer = std::get_if<Answer>(&result))
      respond(*answer);
    else
      generate(std::get<CompletionCall>(std::move(result)));
  });
}

// ---- Generating

void Connection::generate(CompletionCall call) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const std::string id = new_id(call.chat);
  completion_.emplace(std::move(call), server_.service().model(), id,
                      std::chrono::duration_cast<std::chrono::seconds>(now).count());
  begun_ = std::chrono::steady_clock::now();
  has_token_ = false;
  std::vector<int64_t> numbers;
  try {
    numbers =
        server_.generation().submit(completion_->requests(), [self = shared_from_this()](Outcome outcome) {
          asio::post(self->stream_.get_executor(),
                     [self, outcome = std::move(outcome)] { self->on_outcome(outcome); });
        });
  } catch (...) {
    completion_.reset();
    throw;
  }
  for (size_t i = 0; i < numbers.size(); ++i) sequences_[numbers[i]] = i;
  parser_->get().body().clear();
  watch_client();
  if (!completion_->streams()) return;
  server_.metrics().count_answer(200);
  send(head(200, "text/event-stream") + "Cache-Control: no-cache\r\n" +
       (chunked_ ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n"));
  if (!chunked_) keep_ = false;
  send_events(completion_->begin_stream(), false);
}

void Connection::on_outcome(const Outcome& outcome) {
  const auto at = sequences_.find(outcome.sequence);
  if (at == sequences_.end()) return;  // it came before its sequence was cancelled
  if (!outcome.error.empty()) {
    const bool streams = completion_->streams();
    sequences_.erase(at);
    drop_sequences();
    if (!streams) return respond_error(500, "generation failed: " + outcome.error);
    keep_ = false;
    return send_events("data: " + error_json(500, "generation failed: " + outcome.error, "", "") + "\n\n",
                       true);
  }
  if (outcome.event.token && !std::exchange(has_token_, true))
    server_.metrics().first_token.add(seconds_since(begun_));
  const size_t choice = at->second;
  const std::string events = completion_->take(choice, outcome.event);
  if (completion_->ended(choice)) {
    if (outcome.event.finish == Finish::none) server_.generation().cancel({outcome.sequence});
    sequences_.erase(at);
  }
  const bool done = completion_->done();
  if (done) server_.metrics().request.add(seconds_since(begun_));
  if (completion_->streams())
    send_events(done ? events + completion_->end_stream() : events, done);
  else if (done)
    respond({200, completion_->answer()});
  if (done) completion_.reset();
}

// Events as a chunk, and what ends them.
void Connection::send_events(const std::string& events, bool last) {
  if (last) answered_ = true;
  if (!chunked_)
    send(events);
  else
    send((events.empty() ? "" : fmt::format("{:x}\r\n{}\r\n", events.size(), events)) +
         (last ? "0\r\n\r\n" : ""));
}

void Connection::watch_client() {
  stream_.socket().async_wait(asio::ip::tcp::socket::wait_read, [self = shared_from_this(),
                                                                 watch = ++watch_](const Failure& error) {
    if (error || watch != self->watch_ || !self->completion_) return;
    char byte;
    const ssize_t found = ::recv(self->stream_.socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (found > 0) return;  // the next request, which is read later
    if (found < 0 && (errno == EAGAIN || errno == EINTR)) return self->watch_client();
    self->abandon();
  });
}

void Connection::abandon() {
  if (busy_) ++server_.metrics().abandoned;
  close();
}

// ---- Writing

std::string Connection::head(int status, const char* content_type) const {
  const beast::string_view reason = http::obsolete_reason(http::int_to_status(static_cast<unsigned>(status)));
  return fmt::format("HTTP/1.1 {} {}\r\nServer: wuneng\r\nContent-Type: {}\r\nConnection: {}\r\n", status,
                     std::string_view(reason.data(), reason.size()), content_type,
                     keep_ && !server_.stopping() ? "keep-alive" : "close");
}

void Connection::respond(const Answer& answer, const char* header) {
  answered_ = true;
  server_.metrics().count_answer(answer.status);
  const bool head_only = parser_->is_header_done() && parser_->get().method() == http::verb::head;
  send(head(answer.status, answer.content_type) + header +
       fmt::format("Content-Length: {}\r\n\r\n", answer.body.size()) + (head_only ? "" : answer.body));
}

void Connection::respond_error(int status, const std::string& message, const std::string& param,
                               const std::string& code) {
  std::string header;
  if (status == 401) header = "WWW-Authenticate: Bearer\r\n";
  if (status == 405) header = fmt::format("Allow: {}\r\n", route_->method);
  if (status == 429 || status == 503) header = "Retry-After: 1\r\n";
  respond({status, error_json(status, message, param, code)}, header.c_str());
}

void Connection::send(std::string bytes) {
  if (closed_) return;
  if (!bytes.empty()) {
    pending_ += bytes.size();
    outgoing_.push_back(std::move(bytes));
  }
  if (!answered_ && pending_ > kMostPending) return abandon();
  if (!writing_) write();
}

void Connection::write() {
  if (outgoing_.empty()) {
    if (answered_) finish_answer();
    return;
  }
  writing_ = true;
  const std::string& front = outgoing_.front();
  const size_t size = std::min(front.size() - sent_, kWriteAtOnce);
  stream_.expires_after(server_.limits().write);
  stream_.async_write_some(asio::buffer(front.data() + sent_, size),
                           [self = shared_from_this()](const Failure& error, size_t bytes) {
                             self->writing_ = false;
                             if (self->closed_) return;
                             if (error) return self->abandon();
                             self->pending_ -= bytes;
                             self->sent_ += bytes;
                             if (self->sent_ == self->outgoing_.front().size()) {
                               self->outgoing_.pop_front();
                               self->sent_ = 0;
                             }
                             self->write();
                           });
}

void Connection::finish_answer() {
  answered_ = false;
  ++watch_;
  Failure ignored;
  stream_.socket().cancel(ignored);  // the watch
  if (keep_ && body_read_) return read_request();
  if (body_read_) return close();
  linger();
}

// The rest of a body that is not wanted is read for a while: a client that still writes it would get a reset
// connection in place of the answer.
void Connection::linger() {
  Failure ignored;
  stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  discarded_.resize(kReadAhead);
  stream_.expires_after(kLinger);
  discard();
}

void Connection::discard() {
  stream_.async_read_some(asio::buffer(discarded_),
                          [self = shared_from_this()](const Failure& error, size_t bytes) {
                            self->discarded_bytes_ += bytes;
                            if (error || self->closed_ || self->discarded_bytes_ > kMostDiscarded)
                              return self->close();
                            self->discard();
                          });
}

// Of the request under way: those that have not ended are cancelled.
void Connection::drop_sequences() {
  std::vector<int64_t> numbers;
  for (const auto& [number, choice] : sequences_) numbers.push_back(number);
  server_.generation().cancel(numbers);
  sequences_.clear();
  completion_.reset();
}

void Connection::close() {
  if (closed_) return;
  closed_ = true;
  drop_sequences();
  outgoing_.clear();
  stream_.close();
}

}  // namespace wuneng::serving

// Connection: the requests of one client, one after the other. All of it runs on the connection's strand.
#pragma once
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <deque>
#include <map>
#include <memory>
#include <optional>

#include "launch/serve/completion.h"
#include "launch/serve/server.h"

namespace wuneng::serving {

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(boost::asio::ip::tcp::socket socket, Server& server);
  ~Connection();

  void start();
  void stop();  // closes it where no request is under way; any thread may call it

 private:
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  using Failure = boost::system::error_code;

  void read_request();
  void on_header(const Failure& error);
  void check_header();  // throws HttpError
  void read_body();
  void on_body(const Failure& error);
  void respond(const Answer& answer, const char* header = "");
  void respond_error(int status, const std::string& message, const std::string& param = "",
                     const std::string& code = "");
  template <class Action>
  void answering_errors(const Action& action);

  void generate(CompletionCall call);
  void on_outcome(const Outcome& outcome);
  void send_events(const std::string& events, bool last);
  void watch_client();  // while nothing is read: whether the client has gone
  void abandon();       // gives up the request and the connection

  std::string head(int status, const char* content_type) const;
  void send(std::string bytes);
  void write();
  void finish_answer();
  void linger();
  void discard();
  void drop_sequences();
  void close();

  Server& server_;
  boost::beast::tcp_stream stream_;
  boost::beast::flat_buffer buffer_;
  std::optional<Parser> parser_;
  const Service::Route* route_ = nullptr;

  bool busy_ = false;       // a request has come and is not yet answered
  bool body_read_ = false;  // all of it
  bool keep_ = false;       // the connection, after this answer
  bool chunked_ = false;
  bool answered_ = false;  // all of the answer is in outgoing_
  std::deque<std::string> outgoing_;
  size_t sent_ = 0;     // bytes of outgoing_.front()
  size_t pending_ = 0;  // bytes of outgoing_ that are not sent
  bool writing_ = false, closed_ = false;
  int64_t watch_ = 0;           // the number of the request that a watch belongs to
  std::string discarded_;       // the last of them
  size_t discarded_bytes_ = 0;  // of a body that is not wanted

  std::optional<Completion> completion_;
  std::map<int64_t, size_t> sequences_;  // those that run: number -> choice
  std::chrono::steady_clock::time_point begun_;
  bool has_token_ = false;
};

}  // namespace wuneng::serving

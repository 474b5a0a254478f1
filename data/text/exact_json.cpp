#include "data/text/exact_json.h"

#include <vector>

#include "runtime/error.h"
#include "runtime/json_depth.h"

namespace wuneng {
namespace {

class Builder : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(const std::string& what) : what_(what) {}
  Json&& result() { return std::move(root_); }

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(int64_t value) override { return put(value); }
  bool number_unsigned(uint64_t value) override { return put(value); }
  bool number_float(double value, const std::string& digits) override {
    // The parser makes a float of an integer that does not fit.
    if (digits.find_first_of(".eE") != digits.npos) return put(value);
    return put(Json::binary({digits.begin(), digits.end()}));
  }
  bool string(std::string& value) override { return put(std::move(value)); }
  bool binary(Json::binary_t&) override { return false; }  // JSON text has none
  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(std::string& key) override {
    require(!open_.back()->contains(key), "{}: expected each key of an object once, found \"{}\" twice",
            what_, key);
    key_ = std::move(key);
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& e) override {
    fail("{}: expected JSON: {}", what_, e.what());
  }

 private:
  Json& place(Json&& value) {
    if (open_.empty()) return root_ = std::move(value);
    Json& in = *open_.back();
    if (in.is_object()) return in[key_] = std::move(value);
    in.push_back(std::move(value));
    return in.back();
  }
  bool put(Json&& value) {
    place(std::move(value));
    return true;
  }
  bool open(Json&& value) {
    open_.push_back(&place(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  const std::string& what_;
  Json root_;
  std::vector<Json*> open_;  // stay in place: only the innermost one grows
  std::string key_;
};

}  // namespace

Json parse_exact_json(std::string_view text, const std::string& what) {
  require(!json_too_deep(text), "{}: expected JSON nested at most {} deep, found deeper", what, kDeepestJson);
  Builder builder(what);
  Json::sax_parse(text, &builder);
  return builder.result();
}

}  // namespace wuneng

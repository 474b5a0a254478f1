#include "data/text/members.h"

#include <algorithm>
#include <array>

#include "runtime/error.h"

namespace wuneng {
namespace {

// Of a message or a call: they say where it is from, not what it is.
constexpr std::array<std::string_view, 22> kWithoutMeaning = {
    "id",      "uuid",       "message_id", "parent_id", "index",         "turn",        "date",  "time",
    "created", "created_at", "update_at",  "timestamp", "lang",          "language",    "model", "source",
    "url",     "metadata",   "meta",       "status",    "finish_reason", "token_count",
};

bool says_nothing(const Json& value) {
  return value.is_string() ? value.get_ref<const std::string&>().empty()
                           : value.is_null() || (value.is_structured() && value.empty());
}

template <class Range>
bool is_in(const Range& range, std::string_view key) {
  return std::find(std::begin(range), std::end(range), key) != std::end(range);
}

}  // namespace

std::string text_of(const Json& value, const std::string& name) {
  require(value.is_string(), "{}: expected a string, found {}", name, value.type_name());
  return value.get<std::string>();
}

Members::Members(const Json& object, std::string where, const std::vector<std::string>& ignored)
    : object_(object), where_(std::move(where)), ignored_(ignored) {
  require(object.is_object(), "{}: expected an object, found {}", where_, object.type_name());
}

const std::vector<std::string>& Members::not_ignorable() {
  static const std::vector<std::string> none;
  return none;
}

// The end of a message about a member that is refused.
std::string Members::way_out(std::string_view key) const {
  return &ignored_ == &not_ignorable() ? "" : fmt::format(" (--ignore {} takes the data without it)", key);
}

bool Members::asked(std::string_view key) const { return is_in(asked_, key); }
bool Members::is_ignored(std::string_view key) const { return is_in(ignored_, key); }

bool Members::contains(const char* key) const { return object_.contains(key) && !is_ignored(key); }

bool Members::has(const char* key) const {
  const auto at = object_.find(key);
  return at != object_.end() && !at->is_null() && !is_ignored(key);
}

const Json* Members::find(const char* key) {
  asked_.push_back(key);
  return has(key) ? &*object_.find(key) : nullptr;
}

std::string Members::text(const char* key) {
  const Json* value = find(key);
  require(value != nullptr, "{}: expected a member \"{}\", found none", where_.empty() ? "line" : where_,
          key);
  return text_of(*value, place(key));
}

std::string Members::optional_text(const char* key) {
  const Json* value = find(key);
  return value ? text_of(*value, place(key)) : "";
}

void Members::refuse_others() const {
  for (const auto& [key, value] : object_.items())
    require(asked(key) || is_ignored(key) || says_nothing(value) || is_in(kWithoutMeaning, key),
            "{}: \"{}\" is not understood{}", where_, key, way_out(key));
}

void Members::refuse(std::initializer_list<const char*> keys, const char* why) const {
  for (const char* key : keys)
    require(!has(key) || asked(key) || says_nothing(*object_.find(key)), "{}: {}{}", place(key), why,
            way_out(key));
}

std::vector<std::string> Members::others() const {
  std::vector<std::string> out;
  for (const auto& [key, value] : object_.items())
    if (!asked(key) && !says_nothing(value)) out.push_back(key);
  return out;
}

}  // namespace wuneng

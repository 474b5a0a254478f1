// Members of a JSON object that is read to the last: each is understood, known to have no meaning for
// training, or refused by name.
#pragma once
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "data/text/exact_json.h"

namespace wuneng {

class Members {
 public:
  // `where` names the object in messages: "messages[2]". `ignored`: names that need not be understood.
  Members(const Json& object, std::string where, const std::vector<std::string>& ignored);

  // For `ignored`, where there is no --ignore: no name, and messages do not speak of it.
  static const std::vector<std::string>& not_ignorable();

  const std::string& where() const { return where_; }
  // nullptr if it is absent, null or ignored. The member counts as understood.
  const Json* find(const char* key);
  bool has(const char* key) const;
  bool contains(const char* key) const;        // also null
  std::string text(const char* key);           // an Error if it is absent
  std::string optional_text(const char* key);  // "" if it is absent

  // An Error if a member that find() was not asked for says something: null, "", [] and {} do not. Ids, dates
  // and the like are passed over.
  void refuse_others() const;
  // An Error if one of these says something and find() was not asked for it.
  void refuse(std::initializer_list<const char*> keys, const char* why) const;
  // Names of the members that say something and that find() was not asked for.
  std::vector<std::string> others() const;

 private:
  bool asked(std::string_view key) const;
  bool is_ignored(std::string_view key) const;
  std::string way_out(std::string_view key) const;
  std::string place(const char* key) const { return where_.empty() ? key : where_ + "." + key; }

  const Json& object_;
  std::string where_;
  const std::vector<std::string>& ignored_;
  std::vector<std::string_view> asked_;
};

// An Error unless it is a string.
std::string text_of(const Json& value, const std::string& name);

}  // namespace wuneng

#include "data/text/template_files.h"

#include <filesystem>

#include "data/text/exact_json.h"
#include "runtime/error.h"
#include "runtime/file.h"

namespace wuneng {
namespace {

namespace fs = std::filesystem;
using Templates = std::map<std::string, TemplateFile>;

// The value of "chat_template" in the file; null if there is none.
Json template_of(const std::string& file) {
  if (!fs::exists(file)) return nullptr;
  const Json json = parse_exact_json(read_file(file), file);
  require(json.is_object(), "{}: expected an object, found {}", file, json.type_name());
  return json.value("chat_template", Json());
}

void add_list(const Json& list, const std::string& where, Templates& out) {
  for (const Json& entry : list) {
    const auto is_text = [&](const char* key) {
      return entry.is_object() && entry.contains(key) && entry[key].is_string();
    };
    require(is_text("name") && is_text("template"),
            "{}: expected a list of {{\"name\": .., \"template\": ..}}, found {}", where,
            entry.dump().substr(0, 100));
    const std::string name = entry["name"];
    require(out.try_emplace(name, TemplateFile{entry["template"], where + "." + name}).second,
            "{}: expected each name once, found {} twice", where, name);
  }
}

}  // namespace

std::map<std::string, TemplateFile> read_template_files(const std::string& directory) {
  Templates out;
  const std::string config = directory + "/tokenizer_config.json", where = config + ": chat_template";
  const Json value = template_of(config);
  if (value.is_array())
    add_list(value, where, out);
  else if (value.is_string())
    out["default"] = {value, where};
  else
    require(value.is_null(), "{}: expected a template or a list of them, found {}", where, value.type_name());

  if (const std::string file = directory + "/chat_template.jinja"; fs::exists(file))
    out["default"] = {read_file(file), file};
  if (const fs::path more = directory + "/additional_chat_templates"; fs::is_directory(more))
    for (const fs::directory_entry& entry : fs::directory_iterator(more))
      if (entry.path().extension() == ".jinja")
        out[entry.path().stem()] = {read_file(entry.path()), entry.path()};

  const std::string processor = directory + "/chat_template.json";
  if (const Json theirs = template_of(processor); theirs.is_string()) {
    const TemplateFile& used = out.try_emplace("default", TemplateFile{theirs, processor}).first->second;
    require(used.text == theirs, "{}: expected the template of {}, found another", processor, used.where);
  }
  std::string names;
  for (const auto& [name, file] : out) names += (names.empty() ? "" : ", ") + name;
  require(out.contains("default"),
          "{}: expected a template in it, in chat_template.jinja or chat_template.json, found {}", where,
          names.empty() ? "none" : "only " + names);
  return out;
}

}  // namespace wuneng

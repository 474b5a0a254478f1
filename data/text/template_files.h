// The chat templates of a model's directory, where Hugging Face's tokenizers look for them.
#pragma once
#include <map>
#include <string>

namespace wuneng {

struct TemplateFile {
  std::string text;
  std::string where;  // the file, and the key in it
};

// By name; always with one named "default", or an Error. Later ones replace earlier ones of a name:
//   tokenizer_config.json: chat_template          a template, or a list of {"name", "template"}
//   chat_template.jinja                           "default"
//   additional_chat_templates/NAME.jinja          NAME
// chat_template.json, which processors read, counts where there is no other "default", and must be equal
// where there is one.
std::map<std::string, TemplateFile> read_template_files(const std::string& directory);

}  // namespace wuneng

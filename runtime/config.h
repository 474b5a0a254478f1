// Recipe: a TOML file with key=value overrides, read key by key. A key that is never read is an error, so
// that a misspelt key is not silently ignored.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace wuneng {

// `text` as a string in TOML, in quotes, with escapes.
std::string toml_string(const std::string& text);

class Recipe {
 public:
  // overrides: "optimizer.lr=1e-4", values as in TOML (a bare word is a string). Throws, with one line that
  // names file and line, for a file that cannot be read or is no TOML, and for a key that is overridden
  // twice.
  Recipe(const std::string& path, const std::vector<std::string>& overrides);
  ~Recipe();

  // Each takes a key, its default and the accepted values; a wrong type or value throws an error with file,
  // line, key, expected and found.
  int64_t integer(const std::string& key, int64_t fallback, int64_t least, int64_t most = INT64_MAX);
  std::vector<int64_t> integers(const std::string& key, const std::vector<int64_t>& fallback, int64_t least,
                                int64_t most);  // a list
  double number(const std::string& key, double fallback, double least, double most);
  bool boolean(const std::string& key, bool fallback);
  std::string text(const std::string& key, const std::string& fallback,
                   const std::vector<std::string>& allowed = {});
  // A text; where the key was a boolean once, that is still read as one of two of them.
  std::string text_or_boolean(const std::string& key, const std::string& fallback,
                              const std::vector<std::string>& allowed, const std::string& where_false,
                              const std::string& where_true);
  std::vector<std::string> texts(const std::string& key, const std::vector<std::string>& fallback,
                                 const std::vector<std::string>& allowed = {});
  // Accepts old_key, the former name of `key`, and adds a deprecation note to notes(). Must be called before
  // `key` is read; throws if both are set.
  void renamed(const std::string& old_key, const std::string& key);
  const std::vector<std::string>& notes() const { return notes_; }

  bool has(const std::string& key) const;  // is it set, or a table with something set?
  // How many tables a list has ([[key]]); the settings of the first are read as key[0].NAME.
  int64_t tables(const std::string& key) const;
  void require_key(const std::string& key) const;  // throws if it is not set, with the most similar key

  // Throws if a key of the file or the command line was never read, with the most similar known key.
  void finish() const;
  // All keys that were read with their values, as TOML: the effective configuration.
  std::string resolved() const;
  const std::string& path() const { return path_; }

 private:
  struct Impl;
  std::string path_;
  std::vector<std::string> notes_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace wuneng

// Recipe: a TOML file with key=value overrides, read key by key. A key that nobody asked for is an error, so
// that a misspelt setting never passes for a default.
#pragma once
#include <memory>
#include <string>
#include <vector>

namespace wuneng {

class Recipe {
 public:
  // overrides: "optimizer.lr=1e-4", values as in TOML (a bare word is a string).
  Recipe(const std::string& path, const std::vector<std::string>& overrides);
  ~Recipe();

  // Each names its key, its default and what it accepts; a wrong type or value throws, naming file, line,
  // key, expected and found.
  int64_t integer(const std::string& key, int64_t fallback, int64_t least, int64_t most = INT64_MAX);
  double number(const std::string& key, double fallback, double least, double most);
  bool boolean(const std::string& key, bool fallback);
  std::string text(const std::string& key, const std::string& fallback,
                   const std::vector<std::string>& allowed = {});
  std::vector<std::string> texts(const std::string& key, const std::vector<std::string>& fallback,
                                 const std::vector<std::string>& allowed = {});
  // A key of an earlier version: its setting is taken as `key`'s, with a word in notes(). Call it before
  // `key` is read; throws where both are set.
  void renamed(const std::string& old_key, const std::string& key);
  const std::vector<std::string>& notes() const { return notes_; }

  bool has(const std::string& key) const;  // is it set, or a table with something set?
  // How many tables a list has ([[key]]); the settings of the first are read as key[0].NAME.
  int64_t tables(const std::string& key) const;
  void require_key(const std::string& key) const;  // throws where it is not set

  // Throws for every key of the file or the command line that was not asked for, with the nearest known one.
  void finish() const;
  // Everything that was asked for, as TOML: what the run really does.
  std::string resolved() const;
  const std::string& path() const { return path_; }

 private:
  struct Impl;
  std::string path_;
  std::vector<std::string> notes_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace wuneng

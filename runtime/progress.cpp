#include "runtime/progress.h"

#include <map>

namespace wuneng::progress {
namespace {

thread_local std::map<int, std::function<void()>> g_all;
thread_local int g_next = 0;

}  // namespace

int add(std::function<void()> advance) {
  g_all.emplace(g_next, std::move(advance));
  return g_next++;
}
void remove(int number) { g_all.erase(number); }
bool none() { return g_all.empty(); }
void make() {
  for (const auto& [number, advance] : g_all) advance();
}

}  // namespace wuneng::progress

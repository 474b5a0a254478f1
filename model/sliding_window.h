// Sliding windows: layers whose queries see the last keys only, as config.json has them.
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <set>

#include "model/config_reader.h"
#include "model/families.h"

namespace wuneng {

struct SlidingWindow {
  int64_t keys = 0;         // that a query sees at most, its own included; 0: all earlier ones
  std::set<int64_t> whole;  // layers whose queries see all, all the same
  // 0: all.
  int64_t of(int64_t layer) const { return whole.contains(layer) ? 0 : keys; }
  bool operator==(const SlidingWindow&) const = default;
};

// By the family's keys: see Family::windows_all_layers. layer_types goes before max_window_layers.
SlidingWindow read_sliding_window(const ConfigReader& reader, const Family& family, int64_t layers);
// Sets the keys in `config`, so that they read as the same; others may keep a window that does not count.
void write_sliding_window(const SlidingWindow& window, const Family& family, int64_t layers,
                          nlohmann::json& config);

}  // namespace wuneng

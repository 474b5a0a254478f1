#include "model/sliding_window.h"

namespace wuneng {
namespace {

constexpr const char *kWindow = "sliding_window", *kUse = "use_sliding_window", *kFirst = "max_window_layers",
                     *kTypes = "layer_types", *kFull = "full_attention", *kSliding = "sliding_attention";

// The layers without a window, by layer_types.
std::set<int64_t> whole_layers(const ConfigReader& r, int64_t layers, bool windows) {
  const std::vector<std::string> types = r.texts(kTypes);
  require(static_cast<int64_t>(types.size()) == layers,
          "{}: {}: expected one for each of num_hidden_layers = {}, found {}", r.where, kTypes, layers,
          types.size());
  std::set<int64_t> whole;
  for (int64_t i = 0; i < layers; ++i) {
    require(types[i] == kFull || types[i] == kSliding, "{}: {}: layer {}: expected {} or {}, found {}",
            r.where, kTypes, i, kFull, kSliding, types[i]);
    require(windows || types[i] == kFull, "{}: {}: layer {} has {}: expected a sliding window, found none",
            r.where, kTypes, i, types[i]);
    if (types[i] == kFull) whole.insert(i);
  }
  return whole;
}

}  // namespace

SlidingWindow read_sliding_window(const ConfigReader& r, const Family& family, int64_t layers) {
  const bool has_key = r.object.contains(kWindow);
  SlidingWindow window;
  if (!family.sliding_window) {
    require(!r.flag(kUse, false), "{}: {} = true is not supported: {} has no sliding window", r.where, kUse,
            family.name);
    require(!r.find(kWindow), "{}: {} = {}: expected none: {} has no sliding window", r.where, kWindow,
            r.find(kWindow) ? r.get(kWindow).dump() : "", family.name);
  } else if (family.windows_all_layers || r.flag(kUse, false)) {
    window.keys = r.integer(kWindow, has_key ? 0 : family.sliding_window);  // null: none
    require(window.keys >= (r.find(kWindow) ? 1 : 0) && window.keys <= INT32_MAX,
            "{}: {} = {}: expected 1 to {}", r.where, kWindow, window.keys, INT32_MAX);
  }
  if (r.find(kTypes)) {
    window.whole = whole_layers(r, layers, window.keys > 0);
    require(!family.windows_all_layers || window.keys == 0 || window.whole.empty(),
            "{}: {}: expected {} in all layers: {} has one window for all", r.where, kTypes, kSliding,
            family.name);
  } else if (window.keys > 0 && !family.windows_all_layers) {
    constexpr int64_t kDefaultFirst = 28;  // transformers'
    for (int64_t i = 0; i < std::min(layers, r.integer(kFirst, kDefaultFirst)); ++i) window.whole.insert(i);
  }
  if (static_cast<int64_t>(window.whole.size()) == layers) window.keys = 0;
  if (window.keys == 0) window.whole.clear();
  return window;
}

void write_sliding_window(const SlidingWindow& window, const Family& family, int64_t layers,
                          nlohmann::json& config) {
  if (!family.sliding_window) return;
  if (family.windows_all_layers) {
    config[kWindow] = window.keys ? nlohmann::json(window.keys) : nlohmann::json(nullptr);
    return;
  }
  config[kUse] = window.keys > 0;
  if (!window.keys) return;
  config[kWindow] = window.keys;
  std::vector<std::string> types;
  for (int64_t i = 0; i < layers; ++i) types.push_back(window.of(i) ? kSliding : kFull);
  config[kTypes] = types;
  // For versions of transformers before layer_types; where other layers have the window these cannot say it.
  int64_t first = 0;
  while (first < layers && !window.of(first)) ++first;
  config[kFirst] = first;
}

}  // namespace wuneng

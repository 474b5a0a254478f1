#include "model/layer_map.h"

#include <algorithm>

#include "runtime/error.h"

namespace wuneng {

std::vector<int64_t> spread_layers(int64_t student_layers, int64_t teacher_layers) {
  std::vector<int64_t> map(student_layers);
  for (int64_t i = 0; i < student_layers; ++i)
    map[i] = std::max<int64_t>(0, (2 * (i + 1) * teacher_layers + student_layers) / (2 * student_layers) - 1);
  return map;
}

void check_layer_map(const std::vector<int64_t>& map, int64_t student_layers, int64_t teacher_layers,
                     const std::string& where) {
  require(static_cast<int64_t>(map.size()) == student_layers,
          "{}: expected a layer of the teacher for each of the student's {} layers, found {}", where,
          student_layers, map.size());
  for (size_t i = 0; i < map.size(); ++i) {
    require(map[i] >= 0 && map[i] < teacher_layers,
            "{}: layer {} of the student: expected a layer of the teacher, 0 to {}, found {}", where, i,
            teacher_layers - 1, map[i]);
    require(i == 0 || map[i] >= map[i - 1],
            "{}: layer {} of the student: expected no layer before that of layer {}, which is {}, found {}",
            where, i, i - 1, i == 0 ? 0 : map[i - 1], map[i]);
  }
}

std::vector<Range> colocated_stages(const std::vector<int64_t>& map, int stages, int64_t teacher_layers) {
  std::vector<Range> out;
  int64_t begin = 0;
  for (int stage = 0; stage < stages; ++stage) {
    const Range layers = shard_range(static_cast<int64_t>(map.size()), stages, stage);
    const int64_t end = stage == stages - 1 ? teacher_layers : std::max(begin, map[layers.end - 1] + 1);
    out.push_back({begin, end});
    begin = end;
  }
  return out;
}

int stage_of_layer(const std::vector<Range>& stages, int64_t layer) {
  const auto found = std::find_if(stages.begin(), stages.end(),
                                  [&](const Range& r) { return r.begin <= layer && layer < r.end; });
  WUNENG_ASSERT(found != stages.end());
  return static_cast<int>(found - stages.begin());
}

}  // namespace wuneng

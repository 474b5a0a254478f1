// The layer map: which layer of the teacher each layer of the student is aligned with (docs/model.md,
// "Losses", stage 1). It also says where a colocated teacher's layers run.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "parallel/parameter.h"

namespace wuneng {

// Evenly spread, the last layer to the last: of a student of as many layers each layer to itself. A student
// of more layers than the teacher has some that share one.
std::vector<int64_t> spread_layers(int64_t student_layers, int64_t teacher_layers);
// Throws where `map` does not name a layer of the teacher for each of the student's, in order. `where` names
// the key.
void check_layer_map(const std::vector<int64_t>& map, int64_t student_layers, int64_t teacher_layers,
                     const std::string& where);
// The teacher's layers that run on each of the student's pipeline stages: all up to the one that the stage's
// last layer is aligned with, and on the last stage all that are left. A stage may have none.
std::vector<Range> colocated_stages(const std::vector<int64_t>& map, int stages, int64_t teacher_layers);
// The stage that has a layer.
int stage_of_layer(const std::vector<Range>& stages, int64_t layer);

}  // namespace wuneng

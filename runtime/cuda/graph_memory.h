// Device memory that belongs to a recorded graph: between two launches nothing else may have it.
#pragma once
#include <cstdint>
#include <memory>

namespace wuneng::cuda {

struct GraphMemory;

std::shared_ptr<GraphMemory> make_graph_memory();
// From now on the GPU's allocations are parts of `memory`, until end_graph_memory().
void begin_graph_memory(int index, const std::shared_ptr<GraphMemory>& memory);
void end_graph_memory(int index);
bool is_recording(int index);
// While work is recorded: a copy of the host's bytes, at once, in memory that is not the graph's.
std::shared_ptr<void> upload_beside_recording(int index, const void* from, int64_t bytes);
// Back to the GPU's cache. Every tensor in it has ended.
void release_graph_memory(int index, const std::shared_ptr<GraphMemory>& memory);

}  // namespace wuneng::cuda

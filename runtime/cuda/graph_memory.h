// Device memory that belongs to a recorded graph: between two launches nothing else may have it.
#pragma once
#include <cstdint>
#include <memory>

namespace wuneng::cuda {

struct GraphMemory;

// From now on the GPU's allocations belong to a graph, until end_graph_memory().
std::shared_ptr<GraphMemory> begin_graph_memory(int index);
void end_graph_memory(int index);
bool is_recording(int index);
// Back to the GPU's cache. Every tensor in it has ended.
void release_graph_memory(int index, const std::shared_ptr<GraphMemory>& memory);

}  // namespace wuneng::cuda

// The layouts of a training run's micro-batches: where documents are cut as in a micro-batch before, the same
// layout is given again, with recordings, so that its addresses and tables are those of the graphs.
#pragma once
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "model/document_layout.h"
#include "model/recordings.h"

namespace wuneng {

class RepeatedLayouts {
 public:
  explicit RepeatedLayouts(Device device) : memory_(std::make_shared<RecordingMemory>(device)) {}

  // Those of a micro-batch with these documents (MicroBatch::documents); make: what makes them.
  DocumentLayouts of(const std::vector<int64_t>& documents, const std::function<DocumentLayouts()>& make);
  // What is recorded is made again: kernels are to be others.
  void forget();
  // Lines for the run's log since the last call.
  std::vector<std::string> take_notes() { return std::exchange(memory_->notes, {}); }

 private:
  static constexpr size_t kMost = 4;         // that are kept with graphs: the first that come again
  static constexpr size_t kRemembered = 64;  // of the last micro-batches, to find those

  struct Kept {
    std::vector<int64_t> documents;
    DocumentLayouts layouts;
  };
  std::shared_ptr<RecordingMemory> memory_;
  std::vector<Kept> kept_;
  std::deque<std::vector<int64_t>> seen_;  // once
  bool reported_ = false;                  // the log, of layouts without graphs
};

}  // namespace wuneng

// DocumentLayout: what a layer needs to know of the documents in a micro-batch, computed once per
// micro-batch.
#pragma once
#include <map>
#include <memory>
#include <vector>

#include "kernels/attention.h"
#include "kernels/rows.h"
#include "kernels/wkv7.h"
#include "parallel/stage.h"

namespace wuneng {

class Recordings;

// The slots of documents' sequences in a cache, the same on a GPU for kernels::RowRunsArgs::rows; undefined
// unless DocumentLayout::token_places has them.
struct CacheSlots {
  std::vector<int64_t> of_documents;
  Tensor on_device;  // [documents] i32
};

// One chunk step of a layer that runs chunk by chunk: the j-th chunk of every document that is long enough
// (model.md, "Documents": chunk boundaries count from the document's start), one after another. Where
// documents continue sequences, the first step is what is left of the chunk that they are in.
struct ChunkStep {
  CacheSlots slots;      // with a Continuation: of the step's documents
  Tensor boundary_rows;  // and of those that begin a chunk here: [the step's documents] i32, else -1
  std::vector<kernels::RowRun>
      continuing;  // which of the step before's documents are in this one, as runs of size 1
  std::vector<kernels::AttentionSegment>
      attention;                               // queries in the step's rows, keys in rows of the micro-batch
  Tensor attention_table;                      // see DocumentLayout
  std::vector<kernels::Wkv7Segment> segments;  // in the step's rows
  Tensor positions;                            // [the step's rows] i32
  Tensor rope_cos_sin;                         // see DocumentLayout
};

// Where documents continue sequences that a cache keeps (model/cache.h).
struct Continuation {
  std::vector<int64_t> slots, starts;  // of each document: its sequence's slot, and the tokens before these
  int64_t capacity;                    // of a slot, in tokens
};

struct DocumentLayout {
  std::vector<int64_t> documents;
  int64_t rows = 0;
  Tensor positions;                                  // [T] i32, from each document's start
  Tensor rope_cos_sin;                               // [2, T, head_dim / 2]: kernels/rope.h
  Tensor document_boundaries;                        // [T] i32: kernels/channel.h, TokenShiftArgs
  std::vector<kernels::AttentionSegment> attention;  // one segment a document
  Tensor attention_table;                            // kernels::AttentionForwardArgs::table
  std::vector<kernels::Wkv7Segment> segments;
  // Empty when chunk is 0:
  std::vector<ChunkStep> chunk_steps;
  std::vector<int64_t> chunk_step_rows;           // of each step
  std::vector<kernels::RowRun> chunk_step_order;  // the micro-batch's rows step by step
  std::vector<kernels::RowRun> documents_order;   // and those in the micro-batch's order again

  // With a Continuation; attention's keys are then in rows of the cache, slot by slot. A document with its
  // token before it has one row more.
  CacheSlots slots;
  std::vector<int64_t> starts;
  std::vector<kernels::RowRun> cache_rows;      // of the new tokens
  Tensor cache_row_table;                       // the same: kernels::RowRunsArgs::rows
  std::vector<kernels::RowRun> last_rows;       // each document's last row
  std::vector<kernels::RowRun> with_before;     // from rows [tokens before, new tokens]
  std::vector<kernels::RowRun> without_before;  // from rows with the tokens before
  Tensor boundaries_with_before;                // document_boundaries of those

  // Of documents that are cut as those of earlier micro-batches: their CUDA graphs. Null: there are none.
  std::shared_ptr<Recordings> recordings;

  // On a GPU, of one new token of each of n sequences: all that depends on where the sequences stand, in one
  // block, of which positions and the tables above are views. Its contents may be replaced by those of the
  // same number of other sequences. [8, n] i32: positions, slots, rows of the cache, boundary_rows, and four
  // of attention_table. Else undefined.
  Tensor token_places;
  // On the host.
  static Tensor places_of_tokens(const Continuation& continuation, int64_t chunk);

  // All but the rope_cos_sin.
  static DocumentLayout make(const std::vector<int64_t>& documents, int64_t chunk, Device device = {},
                             const Continuation* continuation = nullptr);
  // frequencies and factor: kernels/rope.h.
  void make_rope_cos_sin(const Stream& stream, const std::vector<double>& frequencies, double factor);

 private:
  void make_chunk_steps(int64_t chunk, Device device);
  void continue_from(const Continuation& continuation, int64_t chunk, Device device);
  Tensor place(int i) const;  // [n], row i of token_places
};

using DocumentLayouts = std::map<int64_t, std::shared_ptr<DocumentLayout>>;  // by the size of chunks

}  // namespace wuneng

#include "data/text/tokenize.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <future>
#include <memory>
#include <optional>

#include "data/token_files/token_info.h"
#include "data/token_files/token_writer.h"
#include "runtime/error.h"
#include "runtime/threads.h"

namespace wuneng {
namespace {

struct Encoded {
  std::vector<Tokens> documents;
  std::vector<std::string> others;
  std::optional<std::string> error;
};

struct RawBatch {
  std::vector<RawRecord> records;
  int64_t bytes_read = 0;  // of the files, at the end of the batch
};

RawBatch read_batch(RawReader& reader, int64_t bytes) {
  constexpr int64_t kRecord = 128;  // overhead of a record in bytes
  RawBatch batch;
  RawRecord record;
  for (int64_t size = 0; size < bytes && reader.next(record);) {
    size += static_cast<int64_t>(record.bytes.size()) + kRecord;
    batch.records.push_back(std::move(record));
  }
  batch.bytes_read = reader.bytes_read();
  return batch;
}

void encode_one(const RawRecord& raw, const TokenizeOptions& options, const RecordEncoder& encoder,
                Encoded& out) {
  try {
    Record record = parse(raw, options.text);
    out.documents = encoder.encode(record);
    out.others = std::move(record.others);
  } catch (const Error& e) {
    out.error = e.what();
  }
}

std::vector<Encoded> encode_batch(const RawBatch& batch, const TokenizeOptions& options,
                                  const RecordEncoder& encoder) {
  std::vector<Encoded> out(batch.records.size());
  // Dynamic scheduling: records differ in length by orders of magnitude.
  std::atomic<size_t> next{0};
  parallel_for(thread_count(), 1, [&](int64_t, int64_t) {
    for (size_t i; (i = next++) < out.size();) encode_one(batch.records[i], options, encoder, out[i]);
  });
  return out;
}

// The output files of all documents of a record.
class Writers {
 public:
  explicit Writers(const TokenizeOptions& o) : prefixes_(o.prefixes) {
    for (const std::string& prefix : o.prefixes)
      writers_.push_back(std::make_unique<MaskedTokenWriter>(prefix, o.type, o.loss_mask));
  }
  void add(const std::vector<Tokens>& documents) {
    for (size_t i = 0; i < writers_.size(); ++i) writers_[i]->add(documents[i].ids, documents[i].loss_mask);
  }
  // Removes old files first and writes an index last: a run that is killed in between leaves no mismatched
  // files.
  void finish(TokenInfo info) {
    for (const std::string& prefix : prefixes_) std::filesystem::remove(prefix + ".idx");
    // .json is the younger one: describes() of data/token_files/token_info.h.
    for (const auto& writer : writers_) writer->close();
    for (size_t i = 0; i < prefixes_.size(); ++i) {
      if (prefixes_.size() == 2) info.pair = prefixes_[1 - i];
      info.tokens = writers_[i]->tokens();
      info.highest = writers_[i]->highest();
      write_token_info(prefixes_[i], info);
    }
    for (const auto& writer : writers_) writer->finish();
  }

 private:
  std::vector<std::string> prefixes_;
  std::vector<std::unique_ptr<MaskedTokenWriter>> writers_;
};

bool any_empty(const std::vector<Tokens>& documents) {
  return std::any_of(documents.begin(), documents.end(), [](const Tokens& t) { return t.ids.empty(); });
}

}  // namespace

TokenizeProgress tokenize_files(const TokenizeOptions& options, const RecordEncoder& encoder,
                                const std::function<void(const TokenizeProgress&)>& report) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  RawReader reader(options.text);
  WUNENG_ASSERT(static_cast<int>(options.prefixes.size()) == encoder.documents());
  Writers writers(options);
  BadLines bad(options.text.on_bad);
  TokenizeProgress progress;
  progress.bytes_total = reader.bytes_total();
  progress.left_out = reader.left_out();
  const auto read = [&] {
    return std::async(std::launch::async, [&] { return read_batch(reader, options.batch); });
  };
  // Reads and decompresses the next batch while this one is encoded.
  for (std::future<RawBatch> coming = read();;) {
    const RawBatch batch = coming.get();
    if (batch.records.empty()) break;
    coming = read();
    std::vector<Encoded> encoded = encode_batch(batch, options, encoder);
    for (size_t i = 0; i < encoded.size(); ++i) {
      const std::vector<Tokens>& documents = encoded[i].documents;
      if (encoded[i].error) {
        bad.add(reader.place(batch.records[i]), *encoded[i].error);
      } else if (any_empty(documents)) {
        ++progress.empty;
      } else {
        writers.add(documents);
        ++progress.records;
        progress.others.insert(encoded[i].others.begin(), encoded[i].others.end());
        for (const Tokens& t : documents) {
          progress.tokens += static_cast<int64_t>(t.ids.size());
          progress.loss_tokens += std::count(t.loss_mask.begin(), t.loss_mask.end(), 1);
        }
      }
    }
    progress.bytes_read = batch.bytes_read;
    progress.bad_lines = bad.count();
    progress.first_bad = bad.first();
    progress.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (report) report(progress);
  }
  writers.finish({encoder.codec().name(), encoder.codec().vocab_size(), to_string(encoder.kind()), "",
                  options.text.paths});
  progress.bytes_read = progress.bytes_total;
  progress.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return progress;
}

}  // namespace wuneng

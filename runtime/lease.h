// A lease on a directory: at most one process at a time may write there, on any host that sees it.
//
// DIRECTORY/lease.N holds who has it: N is the epoch, which rises with every holder. The holder renews the
// file and marks it when it ends. A process that wants the directory takes epoch N + 1 when the holder has
// ended: it says so, its process is gone (same host), or it has not renewed for a while. A process that was
// stopped for longer finds a later epoch when it checks, and may not write any more.
#pragma once
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "runtime/file.h"

namespace wuneng {

class Lease {
 public:
  struct Seconds {
    double patience = 15;  // to wait for a holder to end
    double expiry = 10;    // without a renewal, after which a holder on another host counts as ended
    double renewal = 2;
  };
  // Waits for a holder to end, with a line on stderr; throws an error that names it where it still runs.
  explicit Lease(const std::string& directory) : Lease(directory, Seconds{}) {}
  Lease(const std::string& directory, const Seconds& seconds);
  ~Lease();  // stops renewing, without a mark: others wait until this process is gone
  Lease(const Lease&) = delete;

  int64_t epoch() const { return epoch_; }
  void release();  // marks that the holder has ended

  // Throws where a later epoch exists. For any process that writes for the holder of `epoch`.
  static void check(const std::string& directory, int64_t epoch);

 private:
  bool take(int64_t epoch);
  void write(bool released);
  void stop_renewing();

  std::string directory_;
  int64_t epoch_ = 0;
  int64_t renewals_ = 0;
  std::optional<FileDescriptor> file_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread renewer_;
};

}  // namespace wuneng

#include "runtime/lease.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "runtime/error.h"
#include "runtime/host.h"

namespace wuneng {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using nlohmann::json;

constexpr double kPollSeconds = 0.2;
constexpr double kNaming = 2;       // seconds in which a new holder has written its name
constexpr size_t kFileBytes = 512;  // rewritten in place, so that a full disk does not end a lease

double seconds_since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

// Processes of one machine and one container see each other in /proc.
std::string machine() {
  std::string boot = read_file("/proc/sys/kernel/random/boot_id");
  boot.erase(boot.find_last_not_of('\n') + 1);
  std::error_code error;
  return boot + " " + fs::read_symlink("/proc/self/ns/pid", error).string();
}

// When a process started, in clock ticks since boot; empty where it is gone. A process number is used again.
std::string start_time(int64_t process) {
  try {
    const std::string stat = read_file(fmt::format("/proc/{}/stat", process));
    const size_t name_end = stat.rfind(')');  // field 2 may hold spaces
    if (name_end == std::string::npos || stat.substr(name_end + 2, 1) == "Z") return {};
    size_t at = name_end + 2;
    for (int field = 3; field < 22; ++field) at = stat.find(' ', at) + 1;
    return stat.substr(at, stat.find(' ', at) - at);
  } catch (const Error&) {
    return {};
  }
}

std::string path_of(const std::string& directory, int64_t epoch) {
  return fmt::format("{}/lease.{}", directory, epoch);
}

int64_t epoch_of(const std::string& name) {  // -1: another file
  if (!name.starts_with("lease.") || name.size() == 6 || name.size() > 24 ||
      name.find_first_not_of("0123456789", 6) != std::string::npos)
    return -1;
  return std::stoll(name.substr(6));
}

int64_t last_epoch(const std::string& directory) {
  int64_t last = 0;
  for (const auto& entry : fs::directory_iterator(directory))
    last = std::max(last, epoch_of(entry.path().filename().string()));
  return last;
}

// What a lease file says; empty texts where it cannot be read, e.g. because it is being created.
struct Holder {
  std::string text, host, machine, started;
  int64_t process = 0;
  bool released = false;

  static Holder read(const std::string& path) {
    Holder h;
    try {
      h.text = read_file(path);
    } catch (const Error&) {
      return h;  // removed by a process that has a later epoch
    }
    const json j = json::parse(h.text, nullptr, false);
    if (!j.is_object()) return h;
    h.host = j.value("host", "");
    h.machine = j.value("machine", "");
    h.started = j.value("started", "");
    h.process = j.value("process", int64_t{0});
    h.released = j.value("released", false);
    return h;
  }
  std::string name() const {
    return host.empty() ? "an unknown process" : fmt::format("process {} on host {}", process, host);
  }
  bool is_gone() const {
    return released || (!host.empty() && machine == wuneng::machine() && start_time(process) != started);
  }
};

}  // namespace

Lease::Lease(const std::string& directory, const Seconds& seconds) : directory_(directory) {
  const Clock::time_point begin = Clock::now();
  Clock::time_point renewed = begin;
  std::string seen;
  for (bool said = false;; std::this_thread::sleep_for(std::chrono::duration<double>(kPollSeconds))) {
    const int64_t last = last_epoch(directory);
    const std::string path = path_of(directory, last);
    const Holder holder = last > 0 ? Holder::read(path) : Holder{};
    if (holder.text != seen) renewed = Clock::now();
    seen = holder.text;
    if (last == 0 || holder.is_gone() || seconds_since(renewed) >= seconds.expiry) {
      if (take(last + 1)) break;
      continue;  // another process was faster
    }
    require(seconds_since(begin) < seconds.patience,
            "{}: in use by {}, which still runs (it renews {}): two runs cannot write to one directory",
            directory, holder.name(), path);
    // A file that is being created names nobody yet.
    if (said || (holder.host.empty() && seconds_since(begin) < kNaming)) continue;
    std::fprintf(stderr, "wuneng: %s is in use by %s; waiting up to %.0f s for it to end\n",
                 directory.c_str(), holder.name().c_str(), seconds.patience);
    said = true;
  }
  for (const auto& entry : fs::directory_iterator(directory))
    if (const int64_t epoch = epoch_of(entry.path().filename().string()); epoch >= 0 && epoch < epoch_)
      fs::remove(entry.path());
  renewer_ = std::thread([this, every = std::chrono::duration<double>(seconds.renewal)] {
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, every, [this] { return stop_; })) {
      try {
        write(false);
      } catch (const std::exception& e) {
        // The run goes on: check() decides whether it may still write.
        std::fprintf(stderr, "wuneng: the lease was not renewed: %s\n", e.what());
      }
    }
  });
}

bool Lease::take(int64_t epoch) {
  file_ = FileDescriptor::create_new(path_of(directory_, epoch));
  if (!file_) return false;
  epoch_ = epoch;
  write(false);
  sync_path(directory_);
  return true;
}

void Lease::write(bool released) {
  std::string text =
      json{{"epoch", epoch_},       {"host", host_name()},     {"machine", machine()},
           {"process", ::getpid()}, {"renewals", renewals_++}, {"started", start_time(::getpid())},
           {"released", released}}
          .dump();
  text.resize(std::max(kFileBytes, text.size() + 1), ' ');
  text.back() = '\n';
  file_->write(0, text.data(), static_cast<int64_t>(text.size()));
  file_->sync();
}

void Lease::stop_renewing() {
  {
    const std::scoped_lock lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  if (renewer_.joinable()) renewer_.join();
}

Lease::~Lease() { stop_renewing(); }

void Lease::release() {
  stop_renewing();
  write(true);
  file_->close();
}

void Lease::check(const std::string& directory, int64_t epoch) {
  const int64_t last = last_epoch(directory);
  require(last == epoch,
          "{}: this run may not write any more: expected its lease {} to be the last, found {} of {}",
          directory, epoch, last, last > 0 ? Holder::read(path_of(directory, last)).name() : "no process");
}

}  // namespace wuneng

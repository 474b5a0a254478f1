#include "runtime/lease.h"

#include <gmock/gmock.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "runtime/error.h"
#include "tests/error_of.h"
#include "tests/unit/scratch_dir.h"

namespace wuneng::lease_test {
namespace {

class LeaseTest : public ScratchTest {
 protected:
  std::string directory() const { return root_.string(); }
  std::string refusal(double patience, double expiry = 10) const {
    return error_of([&] { Lease(directory(), {.patience = patience, .expiry = expiry}); });
  }
  // A child that holds the lease until it is killed.
  pid_t holder() const {
    int ready[2];
    EXPECT_EQ(::pipe(ready), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      const Lease lease(directory());
      EXPECT_EQ(::write(ready[1], "x", 1), 1);
      for (;;) ::pause();
    }
    char c;
    EXPECT_EQ(::read(ready[0], &c, 1), 1);
    ::close(ready[0]), ::close(ready[1]);
    return child;
  }
};

TEST_F(LeaseTest, EpochsRiseAndAReleasedLeaseIsFreeAtOnce) {
  for (int64_t epoch : {1, 2, 3}) {
    Lease lease(directory());
    EXPECT_EQ(lease.epoch(), epoch);
    Lease::check(directory(), epoch);
    EXPECT_THROW(Lease::check(directory(), epoch - 1), Error);
    lease.release();
  }
  EXPECT_FALSE(std::filesystem::exists(path("lease.2")));
}

TEST_F(LeaseTest, ALivingHolderIsNamedAndADeadOnesLeaseIsTaken) {
  const pid_t child = holder();
  EXPECT_THAT(refusal(0.3), testing::HasSubstr(fmt::format("in use by process {} on host", child)));
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  const Lease lease(directory());
  EXPECT_EQ(lease.epoch(), 2);
  EXPECT_THROW(Lease::check(directory(), 1), Error);  // what the dead one left behind cannot write
}

TEST_F(LeaseTest, AHolderOnAnotherHostCountsWhileItRenews) {
  write("lease.5", R"({"host": "node7", "machine": "another", "process": 12, "started": "1"})");
  EXPECT_THAT(refusal(0.3), testing::HasSubstr("in use by process 12 on host node7"));
  const Lease lease(directory(), {.expiry = 0.4});  // it does not renew
  EXPECT_EQ(lease.epoch(), 6);
}

TEST_F(LeaseTest, AFileThatCannotBeReadIsNotTakenAtOnce) {
  write("lease.1", "{\"host\": \"no");
  EXPECT_THAT(refusal(0.3), testing::HasSubstr("an unknown process"));
}

}  // namespace
}  // namespace wuneng::lease_test

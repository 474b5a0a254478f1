// Mesh: who each rank is. Roles split the world, the student's ranks first; each role is cut its own way into
// dp x pp x tp, tp fastest (so that tensor-parallel ranks are neighbours on a node), then pp, then dp.
#pragma once
#include <optional>

#include "parallel/schedule.h"
#include "runtime/comm.h"

namespace wuneng {

struct Layout {
  int dp = 1, pp = 1, tp = 1;
  int size() const { return dp * pp * tp; }
  bool operator==(const Layout&) const = default;
};

enum class Role { student, teacher };

struct Mesh {
  // Throws with the equation where the layouts do not add up to this many ranks.
  static void check(int ranks, const Layout& student, const std::optional<Layout>& teacher);
  // Collective over the world, after check(). Names this rank for messages.
  static Mesh make(const Comm& world, const Layout& student, const std::optional<Layout>& teacher);

  Role role = Role::student;
  Layout student, layout;  // the student's, and this role's own
  std::optional<Layout> teacher;
  int dp_rank = 0, pp_rank = 0, tp_rank = 0;
  Comm world, role_comm;
  Comm tp, pp, dp;    // the ranks that differ from this one in that coordinate only
  Comm pp_gradients;  // pp's ranks, for the messages that go to the stage before: see PipelineRanks
  Comm embedding;     // first and last pipeline stage with the same dp and tp; itself elsewhere

  // Collective over the world: this rank computes on `device`; see Comm::connect and connect_messages.
  // student_chunks: of the student's pipeline; the teacher has one chunk a stage and goes forward alone.
  void connect(Device device, bool overlap, const VirtualStages& student_chunks) const;

  bool first_stage() const { return pp_rank == 0; }
  bool last_stage() const { return pp_rank == layout.pp - 1; }
  const Layout& layout_of(Role role) const;  // throws where there is no such role
  int world_rank(Role role, int dp, int pp, int tp) const;
};

}  // namespace wuneng

#include "parallel/mesh.h"

#include <gtest/gtest.h>

#include <set>

namespace wuneng {
namespace {

TEST(Mesh, EveryLayoutOfTheWorldHasEveryCoordinateOnce) {
  const Comm world = Comm::world();
  const std::string name = rank_name();
  for (int dp = 1; dp <= world.size(); ++dp)
    for (int pp = 1; pp <= world.size(); ++pp)
      for (int tp = 1; tp <= world.size(); ++tp)
        for (int teacher = 0; teacher < world.size(); ++teacher) {
          const Layout student{dp, pp, tp};
          if (student.size() + teacher != world.size()) continue;
          const Mesh m =
              Mesh::make(world, student, teacher ? std::optional(Layout{1, 1, teacher}) : std::nullopt);
          EXPECT_EQ(m.role == Role::teacher, world.rank() >= student.size());
          EXPECT_EQ(m.world_rank(m.role, m.dp_rank, m.pp_rank, m.tp_rank), world.rank());
          EXPECT_EQ(m.tp.size(), m.layout.tp);
          EXPECT_EQ(m.pp.size(), m.layout.pp);
          EXPECT_EQ(m.dp.size(), m.layout.dp);
          EXPECT_EQ(m.tp.rank(), m.tp_rank);
          EXPECT_EQ(m.pp.rank(), m.pp_rank);
          EXPECT_EQ(m.dp.rank(), m.dp_rank);
          const bool end = m.layout.pp > 1 && (m.first_stage() || m.last_stage());
          EXPECT_EQ(m.embedding.size(), end ? 2 : 1);
          for (int t = 0; t < m.layout.tp; ++t)
            EXPECT_EQ(m.tp.world_ranks()[t], m.world_rank(m.role, m.dp_rank, m.pp_rank, t));
        }
  set_rank_name(name);
}

TEST(Mesh, NamesTheRank) {
  const Comm world = Comm::world();
  const std::string name = rank_name();
  const Mesh m = Mesh::make(world, {.tp = world.size()}, std::nullopt);
  EXPECT_EQ(rank_name(),
            world.size() == 1 ? name : fmt::format("rank {0} (student dp0 pp0 tp{0})", world.rank()));
  EXPECT_EQ(m.layout_of(Role::student), m.layout);
  EXPECT_THROW(m.layout_of(Role::teacher), Error);
  EXPECT_THROW(m.world_rank(Role::teacher, 0, 0, 0), Error);
  EXPECT_THROW(m.world_rank(Role::student, 0, 0, world.size()), Error);
  set_rank_name(name);
}

TEST(Mesh, NamesTheRoleOfABadDegree) {
  try {
    Mesh::check(2, {}, Layout{.dp = 1, .pp = 0, .tp = 1});
    FAIL() << "accepted";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("teacher dp 1 x pp 0 x tp 1 = 0"), std::string::npos) << e.what();
  }
}

TEST(Mesh, PrintsTheEquation) {
  try {
    Mesh::check(5, {1, 2, 2}, Layout{1, 1, 2});
    FAIL() << "accepted";
  } catch (const Error& e) {
    const std::string text = e.what();
    for (const char* part : {"6 ranks", "student dp 1 x pp 2 x tp 2 = 4", "teacher dp 1 x pp 1 x tp 2 = 2",
                             "5 were started", "mpirun -n 6"})
      EXPECT_NE(text.find(part), std::string::npos) << part << " in: " << text;
  }
}

}  // namespace
}  // namespace wuneng

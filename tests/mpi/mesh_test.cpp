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

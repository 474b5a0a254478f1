// A bit of one rank's copy is flipped: all ranks of its group report it, and name it.
#include "parallel/replicas.h"

#include <gmock/gmock.h>

#include <deque>

#include "tests/error_of.h"
#include "tests/mpi/pseudo.h"

namespace wuneng {
namespace {

struct Held {
  std::string name;
  Shape shape;
  Range range;
  bool tied = false;
};

std::deque<Parameter> make_parameters(const std::vector<Held>& all) {
  std::deque<Parameter> out;
  for (size_t i = 0; i < all.size(); ++i) {
    Parameter& p = out.emplace_back();
    p.name = all[i].name;
    p.global_shape = all[i].shape;
    p.held = all[i].range;
    p.sum_over_embedding = all[i].tied;
    p.var = Var(pseudo_tensor(p.global_shape, static_cast<int64_t>(i)).rows(p.held.begin, p.held.end).clone(),
                true);
  }
  return out;
}

Parameters pointers(std::deque<Parameter>& all) {
  Parameters out;
  for (Parameter& p : all) out.push_back(&p);
  return out;
}

std::string error_of_check(const Parameters& parameters, const GradientGroups& groups) {
  return error_of([&] { check_replicas(parameters, groups); });
}

void flip_bit(const Tensor& t, int64_t element, int bit) {
  reinterpret_cast<uint32_t*>(t.raw())[element] ^= 1u << bit;
}

TEST(ReplicasMpi, EveryFlippedBitOfADataParallelReplicaIsFound) {
  const Comm dp = Comm::world();
  auto own = make_parameters({{"a", {4, 3}, {0, 4}}, {"b", {7}, {0, 7}}});
  EXPECT_EQ(error_of_check(pointers(own), {.dp = dp}), "no error");
  for (int rank = 0; rank < dp.size(); ++rank)
    for (const int bit : {0, 13, 31}) {
      if (dp.rank() == rank) flip_bit(own[1].var.value(), 3, bit);
      const std::string error = error_of_check(pointers(own), {.dp = dp});
      if (dp.size() > 1) {
        EXPECT_THAT(error, testing::HasSubstr("parameter b: the replicas of group world"));
      }
      if (dp.size() > 2) {
        EXPECT_THAT(error, testing::HasSubstr(fmt::format(": rank {} of the world", rank)));
      }
      if (dp.rank() == rank) flip_bit(own[1].var.value(), 3, bit);
    }
}

// Rows 2 r to 2 r + 4 of each rank r: neighbours share two of them.
TEST(ReplicasMpi, WhatTensorParallelRanksShareIsCompared) {
  const Comm tp = Comm::world();
  const int64_t rows = 2 * tp.size() + 2, begin = 2 * tp.rank();
  auto own = make_parameters({{"norm", {5}, {0, 5}}, {"k_proj", {rows, 3}, {begin, begin + 4}}});
  EXPECT_EQ(error_of_check(pointers(own), {.tp = tp}), "no error");
  // The first rank's rows 0 and 1 are its own; 2 and 3 are the second's too.
  if (tp.rank() == 0) flip_bit(own[1].var.value(), 1, 5);
  EXPECT_EQ(error_of_check(pointers(own), {.tp = tp}), "no error");
  if (tp.rank() == 0) flip_bit(own[1].var.value(), 2 * 3, 5);
  const std::string error = error_of_check(pointers(own), {.tp = tp});
  if (tp.size() > 1) {
    EXPECT_THAT(error, testing::HasSubstr("parameter k_proj: the replicas of group world"));
  }
  if (tp.size() > 1) {
    EXPECT_THAT(error, testing::HasSubstr("ranks 0 and 1 of the world"));
  }
}

TEST(ReplicasMpi, ATiedEmbeddingIsComparedOverTheEnds) {
  const Comm ends = Comm::world();
  // Stages have different other parameters.
  auto own = make_parameters({{"embedding", {6, 2}, {0, 6}, true}, {"own", {3 + ends.rank()}, {0, 3}}});
  EXPECT_EQ(error_of_check(pointers(own), {.embedding = ends}), "no error");
  if (ends.rank() == ends.size() - 1) flip_bit(own[0].var.value(), 11, 0);
  EXPECT_EQ(error_of_check(pointers(own), {.embedding = ends}) == "no error", ends.size() == 1);
}

}  // namespace
}  // namespace wuneng

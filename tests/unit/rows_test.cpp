// Slicing, joining and reordering rows, with gradients.
#include <gtest/gtest.h>

#include "model/operators.h"
#include "runtime/device_memory.h"
#include "tests/unit/tensor_values.h"

namespace wuneng::rows_test {
namespace {

// On a GPU if there is one; in the emulator, where new memory is NaN.
const Device& device() {
  static const Device found = parse_device("auto", 0);
  return found;
}
Tape tape_here() { return Tape(compute_stream(device())); }
Tensor gradient(const std::vector<float>& values) {
  return Tensor::from(values, {static_cast<int64_t>(values.size() / 2), 2}).to(device());
}
Var rows_of(const std::vector<float>& values) { return Var(gradient(values), true); }

using Values = std::vector<float>;

TEST(Rows, PiecesAreViewsAndTheirGradientsLieSideBySide) {
  Tape tape = tape_here();
  const Var x = rows_of({1, 2, 3, 4, 5, 6, 7, 8});
  const std::vector<Var> pieces = ops::split_rows(tape, x, {1, 2, 1});
  EXPECT_EQ(pieces[1].value().raw(), x.value().rows(1, 3).raw());
  const Var twice = ops::add(tape, pieces[1], pieces[1]);  // the others are not used
  twice.set_grad(gradient({1, 2, 3, 4}));
  tape.backward();
  EXPECT_EQ(values<float>(x.grad()), (Values{0, 0, 2, 4, 6, 8, 0, 0}));
}

TEST(Rows, APiecesGradientAddsToWhatTheWholeHas) {
  Tape tape = tape_here();
  const Var x = rows_of({1, 2, 3, 4});
  const Var also = ops::add(tape, x, x);
  const std::vector<Var> pieces = ops::split_rows(tape, x, {1, 1});
  const Var joined = ops::join_rows(tape, {pieces[1], pieces[0], pieces[1]});
  EXPECT_EQ(values<float>(joined.value()), (Values{3, 4, 1, 2, 3, 4}));
  joined.set_grad(gradient({1, 2, 3, 4, 5, 6}));
  also.set_grad(gradient({10, 20, 30, 40}));
  tape.backward();
  EXPECT_EQ(values<float>(x.grad()), (Values{23, 44, 66, 88}));
}

TEST(Rows, PiecesMayLieWhereTheyAreJoined) {
  Tape tape = tape_here();
  const Tensor place = gradient({0, 0, 0, 0, 9, 9});
  const Var x = rows_of({1, 2, 3, 4}), in_place = ops::add(tape, x, x, place.rows(0, 2)),
            elsewhere = rows_of({5, 6});
  const Var joined = ops::join_rows(tape, {in_place, elsewhere}, place);
  EXPECT_EQ(joined.value().raw(), place.raw());
  EXPECT_EQ(values<float>(joined.value()), (Values{2, 4, 6, 8, 5, 6}));
  joined.set_grad(gradient({1, 2, 3, 4, 5, 6}));
  tape.backward();
  EXPECT_EQ(values<float>(x.grad()), (Values{2, 4, 6, 8}));
  EXPECT_EQ(values<float>(elsewhere.grad()), (Values{5, 6}));
}

TEST(Rows, AnotherOrderAndBack) {
  Tape tape = tape_here();
  const Var x = rows_of({1, 2, 3, 4, 5, 6});
  const Var turned = ops::pack_rows(tape, x, {{1, 2}, {0, 1}});
  EXPECT_EQ(values<float>(turned.value()), (Values{3, 4, 5, 6, 1, 2}));
  const Var back = ops::pack_rows(tape, turned, {{2, 1}, {0, 2}});
  EXPECT_EQ(values<float>(back.value()), values<float>(x.value()));
  const Var some = ops::pack_rows(tape, x, {{2, 1}});
  some.set_grad(gradient({100, 200}));
  back.set_grad(gradient({1, 2, 3, 4, 5, 6}));
  tape.backward();
  EXPECT_EQ(values<float>(x.grad()), (Values{1, 2, 3, 4, 105, 206}));
}

TEST(Rows, TheSameOrderIsNoCopy) {
  Tape tape = tape_here();
  const Var x = rows_of({1, 2, 3, 4, 5, 6});
  EXPECT_EQ(ops::pack_rows(tape, x, {{0, 1}, {1, 2}}).value().raw(), x.value().raw());
}

}  // namespace
}  // namespace wuneng::rows_test

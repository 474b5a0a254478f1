#include "kernels/bonus.h"
#include "kernels/cuda/common/row_kernel.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

struct Bonus {
  Operand a, b, v, base, y;

  template <class R>
  __device__ void run(const R& row) const {
    const float scale = row.sum([&](auto i, auto) { return a[i] * b[i]; });
    if (row.there) row.each([&](auto i, auto) { y.store(i, base[i] + v[i] * scale); });
  }
};

struct BonusBackward {
  Operand a, b, v, dy;
  GradientOutput da, db, dv;

  template <class R>
  __device__ void run(const R& row) const {
    const float scale = row.sum([&](auto i, auto) { return a[i] * b[i]; }),
                dscale = row.sum([&](auto i, auto) { return dy[i] * v[i]; });
    if (!row.there) return;
    row.each([&](auto i, auto) {
      const auto ai = a[i], bi = b[i], dyi = dy[i];
      if (da) da.write(i, bi * dscale);
      if (db) db.write(i, ai * dscale);
      if (dv) dv.write(i, dyi * scale);
    });
  }
};

}  // namespace

void bonus(const Stream& stream, const BonusArgs& args) {
  for_each_row(stream, "bonus", VectorWidth({args.a, args.b, args.v, args.base, args.y}), args.v, 1,
               Bonus{Operand(args.a), Operand(args.b), Operand(args.v), Operand(args.base), Operand(args.y)});
}

void bonus_backward(const Stream& stream, const BonusBackwardArgs& args) {
  for_each_row(stream, "bonus backward",
               VectorWidth({args.a, args.b, args.v, args.dy, args.da.out, args.da.base, args.db.out,
                            args.db.base, args.dv.out, args.dv.base}),
               args.v, 1,
               BonusBackward{Operand(args.a), Operand(args.b), Operand(args.v), Operand(args.dy),
                             GradientOutput(args.da), GradientOutput(args.db), GradientOutput(args.dv)});
}

}  // namespace wuneng::kernels::cuda

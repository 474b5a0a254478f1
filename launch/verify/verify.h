// `wuneng verify`: one step of a recipe on one rank, and the same step under other layouts and devices,
// tensor by tensor (docs/verify.md).
#pragma once
#include "launch/verify/observations.h"
#include "launch/verify/verified_layouts.h"
#include "runtime/comm.h"

namespace wuneng {

// How far a tensor may be from the reference's: kRoundings times as far as it moves where every named value
// and gradient of the reference's step is moved by one unit in the last place, or that unit of its largest
// element. Gradients of parameters are sums over all T tokens of the step, whose rounding grows with the root
// of T: beyond kTokens theirs are sqrt(T / kTokens) times as much.
inline constexpr double kRoundings = 64, kTokens = 65536;

// A step on one rank, and each tensor's bound.
struct VerifyReference {
  Observations step;
  std::map<std::string, double> bounds;

  // noisy: steps with noise. unit: of the last place, relative. tokens: of the step.
  VerifyReference(Observations of_step, const std::vector<Observations>& noisy, double unit, double tokens);
  VerifyReference() = default;  // of ranks that do not have it
  const Tensor& values(const std::string& name) const { return step.parts(name).at(0).values; }
};

// A layout's step against the reference's.
struct Verdict {
  // A tensor, what it was compared by, and where: `rank` of the group has the element that differs most.
  struct Entry {
    std::string name;
    Shape shape;
    double bound = 0;
    int rank = 0;
    Difference difference;
    bool missing = false;  // parts of it on no rank
    bool good() const { return !missing && difference.size <= bound; }
    double share() const { return bound > 0 ? difference.size / bound : 0; }  // of the bound
  };
  std::vector<Entry> tensors;             // in the order of the reference's computation
  std::vector<std::string> unknown;       // that the reference does not have
  const Entry* first_wrong() const;       // null: none
  const Entry& nearest_to_bound() const;  // of those that are good; there must be one
};

// Collective over `ranks`, whose first has the reference; `mine`: what this rank has computed, maybe nothing.
// All return the verdict.
Verdict compare(const Comm& ranks, const VerifyReference& reference, const Observations& mine);

// Collective over the world. Prints a line for each layout on the first rank; returns whether all agree.
bool verify(const VerifiedLayouts& layouts, const Comm& world);

}  // namespace wuneng

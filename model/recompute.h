// What of each layer is computed again in the backward pass, in place of keeping its activations.
#pragma once
#include <string>
#include <vector>

namespace wuneng {

// mixer, mlp: that half of a layer, of which its inputs stay; parts: either half by itself, so that one
// half's activations are there at a time, and what passes between them stays; layer: both at once, of which
// the layer's input stays.
enum class Recompute { none, mixer, mlp, parts, layer };

inline bool recomputes_mixer(Recompute r) { return r == Recompute::mixer || r == Recompute::parts; }
inline bool recomputes_mlp(Recompute r) { return r == Recompute::mlp || r == Recompute::parts; }

// In recipes: "none", "mixer", "mlp", "mixer+mlp", "layer".
const std::vector<std::string>& recompute_names();
Recompute recompute_named(const std::string& name);  // one of them

// About how many forwards of a layer its backward repeats.
double repeated_forwards(Recompute r);

}  // namespace wuneng

// Mixers: what a layer has in the place of a transformer's attention. A mixer is one file in model/mixers/:
// its options, its parameters with their starts, and its forward. model/mixers/registry.h lists them.
#pragma once
#include <memory>

#include "model/cache.h"
#include "model/config.h"
#include "model/head_shards.h"
#include "model/parameter_store.h"
#include "model/residual_stream.h"
#include "runtime/comm.h"

namespace wuneng {

class Mixer {
 public:
  virtual ~Mixer() = default;
  // x [T, d], normalised, equal on all tensor-parallel ranks, of whose gradient each rank forms its heads'
  // share -> what is projected back to [T, d], of which each rank gives its part of the sum. carried: see
  // MixerType. cache: null for whole documents; else documents continue the sequences that it keeps, which
  // get the new tokens (without a recording tape).
  virtual Projections forward(Tape& tape, const Var& x, const DocumentLayout& documents, CarriedVars& carried,
                              const LayerCache* cache) const = 0;
  // What the layer keeps of sequences that are continued, on this rank; nothing where no token sees another.
  virtual CachedTensors cache() const = 0;
  // Tokens of the chunks that the layer goes by (DocumentLayout::chunk_steps); 0: it has no loop over chunks.
  virtual int64_t chunk() const { return 0; }
};

// Where a mixer is made.
struct LayerContext {
  const ModelConfig& config;
  int64_t layer;
  std::string prefix;  // of its parameters' names: "model.layers.3.self_attn."
  const Comm& tp;
  ParameterStore& store;
  const OptionValues& options() const { return config.options_of(config.mixer_of(layer)); }
};

// A named set of options: what differs from the table's own defaults.
struct Preset {
  std::string name;
  std::map<std::string, OptionDefault> defaults;
};

struct MixerType {
  std::string name;  // in a recipe (student.mixer), and in config.json the model_type and the options' key
  std::string former_name = {};  // still read
  std::string architecture;      // in config.json; empty: the family's (model/families.h)
  std::string help;              // one line
  OptionTable options;
  std::vector<Preset> presets;           // the first is the default; may be empty
  std::vector<std::string> starts_from;  // other mixers that a layer of this one can start from (Init)
  // Throws where options and shape do not fit; each option's own range is checked already. May be empty.
  std::function<void(const ModelConfig&, const OptionValues&, const std::string& where)> check;
  // What the first layer of this type leaves for its later ones, also on other pipeline stages: [T, width]
  // each, on a tensor-parallel rank. May be empty.
  std::function<std::vector<CarriedTensor>(const ModelConfig&, int tp_ranks, int tp_rank)> carried;
  std::function<std::unique_ptr<Mixer>(const LayerContext&)> make;
};

// Projections of attention, which several mixers have. What the model's family leaves out is null.
struct AttentionProjections {
  ops::P q = nullptr, q_bias = nullptr, k = nullptr, k_bias = nullptr, v = nullptr, v_bias = nullptr,
         o = nullptr;
  ops::P q_norm = nullptr, k_norm = nullptr;  // [D]
  float norm_eps = 0;
  static AttentionProjections make(const LayerContext& at, const HeadShards& heads);
  // heads [T, n, D], each normalised by q_norm or k_norm, or as they are where that is null.
  Var normed(Tape& tape, const Var& heads, ops::P norm) const;
};

}  // namespace wuneng

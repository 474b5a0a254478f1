// The weights of a checkpoint, and of whatever a path holds.
#pragma once
#include <memory>
#include <string>

#include "model/weight_source.h"
#include "runtime/checkpoint/reader.h"

namespace wuneng {

// Fills `into` (of the weight, or of a moment of the optimizer), with as many elements as `part`, from the
// checkpoint's tensor `name`, in the stored type or converted from it. Throws where it is missing or has
// another shape.
void read_part(CheckpointReader& reader, const std::string& name, const ParameterPart& part,
               const Tensor& into);

// A checkpoint's directory, a root of checkpoints (then its latest), or a Hugging Face directory.
std::unique_ptr<WeightSource> open_weights(const std::string& path);

// The same for one process, which has verified all bytes of a checkpoint and takes the newest whole one.
std::unique_ptr<WeightSource> open_whole_weights(const std::string& path);

// The directory whose tokenizer the model at `path` goes with: a Hugging Face directory itself, or the one
// that the checkpoint names; may be empty.
std::string tokenizer_of(const std::string& path);

// A model with these weights on the ranks of `tp`, whose first prints their notes.
std::unique_ptr<Decoder> make_model(WeightSource& weights, Device device, DType dtype = DType::f32,
                                    const Comm& tp = Comm());

}  // namespace wuneng

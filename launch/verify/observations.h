// What one step computed, tensor by tensor under names that are the same in every layout, and how far two
// such steps are apart.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "parallel/parameter.h"
#include "runtime/observer.h"

namespace wuneng {

// A hyper-rectangle of a logical tensor: its first element's place there, and its values, f32 on the host, of
// the rectangle's shape.
struct ObservedPart {
  Shape begin;
  Tensor values;
};

class Observations {
 public:
  // A tensor of any type, on any device, whole or from `first_row` on; copied. Replaces what was there by
  // this name.
  void put(const std::string& name, const Tensor& values, int64_t first_row = 0);
  // The elements of a parameter's part, [part.elements.size()].
  void add(const std::string& name, const ParameterPart& part, const Tensor& values);

  const std::vector<std::string>& names() const { return names_; }  // in the order of computation
  bool contains(const std::string& name) const { return parts_.contains(name); }
  // None where the name is not there.
  const std::vector<ObservedPart>& parts(const std::string& name) const;

 private:
  std::vector<ObservedPart>& at(const std::string& name);
  std::vector<std::string> names_;
  std::map<std::string, std::vector<ObservedPart>> parts_;
};

// The element in which two tensors differ most.
struct Difference {
  int64_t elements = 0;  // that were compared
  double size = 0;       // |found - expected|; infinite where one of them is no number
  int64_t index = 0;     // in the logical tensor, row-major
  double expected = 0, found = 0;

  void take(const Difference& other);  // of other elements
};
// Of parts of a tensor from `expected`, the whole of it, f32 on the host. Throws where a part is not within.
Difference difference(const Tensor& expected, const std::vector<ObservedPart>& found);

// Records what a micro-batch's tapes name. noise: if not 0, each element x of a value and of a gradient
// becomes x (1 +- noise), by a pseudo-random sign, before it is recorded and used.
std::shared_ptr<Observer> recorder(Observations& to, std::string micro_batch, double noise = 0,
                                   uint64_t seed = 0);

// "[3, 17]"
std::string place(int64_t index, const Shape& shape);

}  // namespace wuneng

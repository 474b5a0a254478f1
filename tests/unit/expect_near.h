// A tensor against rows that a float64 formula made.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "runtime/tensor.h"

namespace wuneng {

// found [rows, columns] f32 is within 1e-5 of `wanted`, by the norm of the difference.
inline void expect_near(const Tensor& found, const std::vector<std::vector<double>>& wanted,
                        const char* what) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < wanted.size(); ++i)
    for (size_t j = 0; j < wanted[i].size(); ++j) {
      const double x = found.f32()[i * wanted[i].size() + j] - wanted[i][j];
      error += x * x;
      norm += wanted[i][j] * wanted[i][j];
    }
  EXPECT_LE(std::sqrt(error), 1e-5 * std::sqrt(norm)) << what;
}

}  // namespace wuneng

// The message of an error, for tests of refusals.
#pragma once
#include <string>

#include "runtime/error.h"

namespace wuneng {

// What `action` throws as an Error; "no error" where it throws nothing.
template <class Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace wuneng

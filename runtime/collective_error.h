// Errors that all ranks of a group have in common: one of them prints the message, all throw it.
#pragma once
#include <string>

#include "runtime/comm.h"

namespace wuneng {

// An error that a rank of the group has printed already.
class ReportedError : public Error {
 public:
  using Error::Error;
};

// Collective over `comm`; `text` is the same on all its ranks. Throws ReportedError after the first rank has
// printed it; in a group of one rank an Error that nobody has printed.
[[noreturn]] void fail_together(const Comm& comm, const std::string& text);

// Collective: if any rank has a problem (a text that is not empty), all fail with the one of the first such
// rank. `what` names the call, and what was done.
void require_no_problem(const Comm& comm, const std::string& problem, const char* what);

}  // namespace wuneng

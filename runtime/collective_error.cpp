#include "runtime/collective_error.h"

#include <cstdio>

namespace wuneng {

void fail_together(const Comm& comm, const std::string& text) {
  if (comm.size() == 1) throw Error(text);
  if (comm.rank() == 0) {
    std::fprintf(stderr, "wuneng: error: %s\n", text.c_str());
    std::fflush(stderr);
  }
  comm.barrier("an error was printed");  // the first rank that ends the run ends all
  throw ReportedError(text);
}

void require_no_problem(const Comm& comm, const std::string& problem, const char* what) {
  const auto all = comm.all_gather_text(problem, what);
  for (int r = 0; r < comm.size(); ++r)
    if (!all[r].empty())
      fail_together(comm, fmt::format("{}: rank {} of {}: {}", what, r, comm.name(), all[r]));
}

}  // namespace wuneng

// Heartbeat: what the ranks of a run tell each other beside MPI, over TCP, so that a hang is reported once
// and names the rank that does not answer, from before MPI_Init on.
//
// Three ranks (the first, the middle and the last one) collect; every rank tells each of them its state every
// few seconds. A collector publishes where it listens in a small file in a directory that all ranks see,
// usually run.out. When a rank has waited too long, or has been silent too long, the first collector that is
// alive asks all ranks once more, prints one report (hang_report.h), has stopped processes killed, and ends
// the run. Nothing here is waited for by a healthy run: where a connection cannot be made, one line says so,
// and each rank reports for itself.
#pragma once
#include <string>

#include "runtime/hang_report.h"

namespace wuneng::heartbeat {

struct Options {
  std::string directory;       // for the files of the collectors; made if it is not there
  RankState (*state)();        // of this rank
  double (*seconds)();         // a clock that stands still while this process is stopped
  double (*timeout)();         // seconds of silence that make a hang; 0: none does
  void (*end)(bool reporter);  // ends this process; reporter: it has printed the report
};

// Does nothing in a run of one rank, or where the launcher does not say which rank this is.
void start(const Options& options);
// MPI is initialised: every rank should be connected soon.
void all_have_started();
// This rank has waited too long. Returns whether a collector will report within the next second; `end` is
// called then.
bool tell_hang();
// Ends the connections and removes this rank's file.
void stop();

}  // namespace wuneng::heartbeat

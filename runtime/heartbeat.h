// Heartbeat: what the ranks of a run send each other outside MPI, over TCP, so that a hang is reported once
// and names the rank that does not answer, from before MPI_Init on.
//
// Three ranks (the first, the middle and the last one) collect; every rank tells each of them its state every
// few seconds. A collector publishes where it listens in a small file in a directory that all ranks see,
// usually run.out. When a rank has waited or has been silent for the watchdog's timeout, the first collector
// that is alive asks all ranks once more, prints one report (hang_report.h), has stopped processes killed,
// and ends the run. Nothing here is waited for by a healthy run: where a connection cannot be made, one line
// says so, and each rank reports for itself.
#pragma once
#include <string>

namespace wuneng::heartbeat {

// directory: for the files of the collectors; made if it is not there. end: ends this process; reporter: it
// has printed the report. Does nothing in a run of one rank, or where the launcher does not say which rank
// this is.
void start(const std::string& directory, void (*end)(bool reporter));
// MPI is initialised: every rank should be connected soon.
void all_have_started();
// From here on the launcher cannot be asked to end the run: on a report every rank ends by itself at once.
void finalizing();
// This rank has waited too long. Returns whether a collector will report within the next second; `end` is
// called then.
bool tell_hang();
// Ends the connections and removes this rank's file.
void stop();

}  // namespace wuneng::heartbeat

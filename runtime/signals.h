// Signals that ask a run to stop: SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2. The first one is noted, for
// the run to save and end at a place of its own; a second one ends the process at once, as if nobody had
// caught it.
#pragma once

namespace wuneng::signals {

constexpr int kStopped = 75;  // exit code of a run that saved and ended early; EX_TEMPFAIL: run it again

// From now on; called before any other thread is started. A signal that was ignored before stays ignored
// (nohup). announce: whether this process says at once, in one line on stderr, what will happen.
//
// A thread of its own receives them. oneDNN's matrix products do not survive a signal handler on their stack:
// on a machine with AVX-512, memory was overwritten in one of ten signals.
void catch_stops(bool announce);
// The number of the signal that has asked for a stop; 0: none has.
int stop_requested();
const char* name(int signal);  // "SIGTERM"

}  // namespace wuneng::signals

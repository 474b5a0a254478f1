#!/usr/bin/python3
"""Runs the program under many layouts and holds each run against one rank's.

usage: check_layouts.py WUNENG PART [quick]

PART: parity (every layout trains alike), resume (stopped, killed and resumed runs, bad input), zero (replicas
that share the optimizer's state), signals (what a teacher may send for a divergence), cache (its signals on
disk), on_policy (training on the student's continuations), trace (run.trace_steps), or cuda (a few layouts on
a GPU, or emulated, against one rank on the CPU).
quick: a sample, for sanitizer builds, and of zero for every build.
"""
import os
import sys
import tempfile

import cuda
import inputs
import on_policy
import parity
import preferences
import resume
import signal_cache
import teacher_signals
import trace
import zero
from runs import Runs
from tally import Tally


def main():
    program, part, quick = os.path.abspath(sys.argv[1]), sys.argv[2], "quick" in sys.argv[3:]
    tally = Tally()
    with tempfile.TemporaryDirectory() as root:
        runs = Runs(program, root, steps=cuda.STEPS if part == "cuda" else 5 if quick else 10)
        if part == "parity":
            parity.check(runs, tally, quick)
        elif part == "resume":
            resume.check(runs, tally, quick)
            preferences.check(runs, tally)
            inputs.check(runs, tally)
        elif part == "zero":
            zero.check(runs, tally, quick)
        elif part == "signals":
            teacher_signals.check(runs, tally)
        elif part == "cache":
            signal_cache.check(runs, tally)
        elif part == "on_policy":
            on_policy.check(runs, tally)
        elif part == "trace":
            trace.check(runs, tally)
        elif part == "cuda":
            if reason := cuda.missing(program):
                print("skipped:", reason)
                return 77
            cuda.check(runs, tally)
        else:
            raise SystemExit(f"{part}: expected parity, resume, zero, signals, cache, on_policy, trace or "
                             "cuda")
    return tally.finish()


if __name__ == "__main__":
    sys.exit(main())

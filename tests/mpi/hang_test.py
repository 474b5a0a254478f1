#!/usr/bin/env python3
"""Ranks that never answer are named, with who waits for them in which call, and the run ends by itself: in
one report by the heartbeat, and without a heartbeat in a report of each rank that waits.

usage: hang_test.py HANG_PROGRAM
"""
import concurrent.futures
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import ranks  # noqa: E402

TIMEOUT = 3
# Without the check of collectives: it would wait for the other rank before the call that is to hang begins.
ENVIRONMENT = ranks.environment(WUNENG_HANG_TIMEOUT=str(TIMEOUT), WUNENG_CHECK_COLLECTIVES="0",
                                WUNENG_EMULATOR_GPU_PER_RANK="1")
LONGEST = TIMEOUT + 12  # seconds: the start, the time-out, 2 for the end, and a loaded machine
SCREEN = 24             # lines


@dataclasses.dataclass
class Case:
    mode: str
    wanted: list      # in what is printed
    ranks: int = 2
    lost: str = "1"
    heartbeat: bool = False
    reports: int = 1  # lines that begin with "wuneng: hang: "


def alone(mode, *wanted):
    """Without a heartbeat: rank 0 reports what it waits for, and the calls before."""
    return Case(mode, ["wuneng: hang: rank 0 has waited", *wanted])


def together(mode, lost, *wanted, reports=1):
    """With one, on four ranks."""
    return Case(mode, list(wanted), 4, lost, True, reports)


RECEIVE = ["receive 'a tensor that never comes'", "with world rank 1", "a call that ends"]
PLACE = "; at step 7, micro-batch 3; last call: all_reduce sum 'a call that ends' f32[3] on world"
SUM = "s in all_reduce sum 'a sum that never comes' f32[3] on world at step 7, micro-batch 3 for rank"
INIT = "s in MPI_Init, which waits for all ranks for rank"
STOPPED = " did not answer: no sign of life for "
CASES = [
    *(alone(mode, *RECEIVE) for mode in ("receive", "stopped receive", "locked output", "receive on a GPU")),
    alone("all_reduce", "all_reduce sum 'a sum that never comes' f32[3] on world (world ranks 0-1)",
          "a call that ends"),
    alone("end", "MPI_Finalize", "a call that ends"),
    Case("dropped", ["rank 0: all_reduce sum 'a sum nobody waits for'", "was dropped before it ended"],
         reports=0),
    together("never starts", "1", "rank 1 was never heard of", "ranks 0,2-3 (", INIT + " 1\n",
             "3 of 4 ranks wait for it"),
    together("never starts", "0", "rank 0 was never heard of", "ranks 1-3 (", INIT + " 0\n"),
    together("stopped in MPI_Init", "2", "rank 2 (", STOPPED, "process stopped (SIGSTOP)", INIT + " 2\n"),
    together("stopped", "1", "rank 1 (", STOPPED, "process stopped (SIGSTOP)" + PLACE, "ranks 0,2-3 (",
             SUM + " 1\n"),
    together("stopped", "0", "rank 0 (", STOPPED, "ranks 1-3 (", SUM + " 0\n"),
    together("stopped", "0,2", "ranks 0,2 (", STOPPED, "ranks 1,3 (", SUM + "s 0,2\n"),
    together("spins", "3", "rank 3 (", " in no call for ", "computes, or is stuck" + PLACE, SUM + " 3\n"),
    together("end", "2", "rank 2 (", "MPI_Finalize", " in no call for "),
]


def check(case):
    name = f"{case.mode}, {case.lost} lost{', heartbeat' if case.heartbeat else ''}"
    with tempfile.TemporaryDirectory() as root:
        directory = os.path.join(root, "run") if case.heartbeat else ""
        command = ranks.command(case.ranks, sys.argv[1], case.mode, case.lost, directory)
        begin = time.time()
        run = subprocess.Popen(command, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, start_new_session=True)
        try:
            _, stderr = run.communicate(timeout=40)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            return f"{name}: the run did not end by itself"
        seconds = time.time() - begin
    missing = [w for w in case.wanted if w not in stderr]
    ours = [line for line in stderr.splitlines() if line.startswith(("wuneng: ", "  "))]
    reports = sum(line.startswith("wuneng: hang: ") for line in ours)
    if missing or reports != case.reports or len(ours) > SCREEN or run.returncode == 0 or seconds > LONGEST:
        return (f"{name}: missing {missing}, {reports} reports, {len(ours)} lines, exit {run.returncode}, "
                f"{seconds:.1f} s\n{stderr}")
    return None


def main():
    with concurrent.futures.ThreadPoolExecutor(6) as pool:  # they wait most of the time
        problems = [p for p in pool.map(check, CASES) if p]
    print(*problems, sep="\n")
    print(f"{len(CASES) - len(problems)} passed, {len(problems)} failed")
    return 1 if problems else 0


sys.exit(main())

#!/usr/bin/env python3
"""A rank that waits for ever is named, with its call, and the run ends by itself.

usage: hang_test.py HANG_PROGRAM
"""
import concurrent.futures
import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import ranks  # noqa: E402

# Without the check of collectives: it would wait for the other rank before the call that is to hang begins.
ENVIRONMENT = ranks.environment(WUNENG_HANG_TIMEOUT="2", WUNENG_CHECK_COLLECTIVES="0",
                                WUNENG_EMULATOR_GPU_PER_RANK="1")
RECEIVE = ["receive 'a tensor that never comes'", "with world rank 1", "a call that ends"]
WANTED = {
    "receive": RECEIVE, "stopped": RECEIVE, "locked output": RECEIVE, "receive on a GPU": RECEIVE,
    "all_reduce": ["all_reduce sum 'a sum that never comes' f32[3] on world (world ranks 0,1)",
                   "a call that ends"],
    "end": ["MPI_Finalize", "a call that ends"],
    "dropped": ["rank 0: all_reduce sum 'a sum nobody waits for'", "was dropped before it ended"],
}
LONGEST = 20  # seconds: 2 until it is a hang, 2 of grace, and a loaded machine


def check(mode):
    begin = time.time()
    run = subprocess.Popen(ranks.command(2, sys.argv[1], mode), env=ENVIRONMENT, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        _, stderr = run.communicate(timeout=40)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        return f"{mode}: the run did not end by itself"
    seconds = time.time() - begin
    wanted = WANTED[mode] + ["wuneng: hang: rank 0 has waited"] * (mode != "dropped")
    missing = [w for w in wanted if w not in stderr]
    if missing or run.returncode == 0 or seconds > LONGEST:
        return f"{mode}: missing {missing}, exit {run.returncode}, {seconds:.1f} s\n{stderr}"
    return None


def main():
    with concurrent.futures.ThreadPoolExecutor(len(WANTED)) as pool:  # they wait most of the time
        problems = [p for p in pool.map(check, WANTED) if p]
    print(*problems, sep="\n")
    print(f"{len(WANTED) - len(problems)} passed, {len(problems)} failed")
    return 1 if problems else 0


sys.exit(main())

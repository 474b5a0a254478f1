#!/usr/bin/env python3
"""Ranks, mpirun, or all of them are killed (SIGKILL) at random moments, and the run is started again at once,
while ranks without an mpirun may still be there. When it ends, it must be equal to the bit to one that was
never killed. And two runs that are started in one folder: one of them must refuse.

usage: check_kills.py WUNENG [KILLS]   (default 6)
"""
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "layouts"), os.path.join(HERE, "..")]
import ranks  # noqa: E402
import results  # noqa: E402
from runs import ONE, Layout, Runs, children  # noqa: E402
from tally import Tally  # noqa: E402

PROGRAM = os.path.abspath(sys.argv[1])
KILLS = int(sys.argv[2]) if len(sys.argv) > 2 else 6
EVERY_STEP = {"run.checkpoint_every": 1, "run.keep": 2}
LAYOUT, TEACHER = Layout(dp=2), ONE
VICTIMS = ("all", "mpirun", "a rank")


def start(runs, name, log):
    # To a file: ranks without an mpirun would keep a pipe open.
    with open(log, "a") as out:
        return subprocess.Popen(runs.command(name, LAYOUT, TEACHER, EVERY_STEP), env=ranks.environment(),
                                stdout=out, stderr=subprocess.STDOUT, start_new_session=True)


def kill(run, victim, rng):
    """A process may end by itself before."""
    pids = children(run.pid)
    chosen = {"all": [*pids, run.pid], "mpirun": [run.pid], "a rank": rng.sample(pids, min(1, len(pids)))}
    for pid in chosen[victim]:
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            pass
    try:
        run.wait(timeout=15)
    except subprocess.TimeoutExpired:  # Open MPI's mpirun, whose ranks are gone, does not always end
        run.kill()
        run.wait()


def text_of(log):
    with open(log) as f:
        return f.read()


def check_kills(runs, tally):
    rng = random.Random(KILLS)
    begin = time.time()
    whole = runs.run("whole", LAYOUT, TEACHER, EVERY_STEP)
    seconds = time.time() - begin
    killed = 0
    while killed < KILLS:
        shutil.rmtree(runs.out("killed"), ignore_errors=True)
        log = runs.out("killed.log")
        open(log, "w").close()
        for _ in range(rng.randint(1, 5)):
            run = start(runs, "killed", log)
            time.sleep(rng.uniform(0.1, seconds))
            victim = VICTIMS[killed % len(VICTIMS)]
            if run.poll() is None:
                kill(run, victim, rng)
                killed += 1
        code, last = runs.attempt("killed", LAYOUT, TEACHER, EVERY_STEP)
        bad = code != 0 or not results.identical(whole, runs.out("killed"), runs.steps)
        if bad:
            tally.check(f"a run after {killed} kills", [f"exit {code}", last, text_of(log)])
            return
    tally.check(f"{killed} kills: each run ends as one that was never killed", False)


def check_two_runs(runs, tally):
    """Both are started at the same moment: one trains, the other names it."""
    logs = [runs.out(f"shared{i}.log") for i in range(2)]
    codes = [run.wait(timeout=120) for run in [start(runs, "shared", log) for log in logs]]
    texts = list(map(text_of, logs))
    # The second waits for the first: it goes on with a finished run, or refuses.
    waited = [text for text in texts if "is in use by process" in text]
    tally.check("of two runs in one folder one waits for the other, by name",
                [] if len(waited) == 1 and 0 in codes else [f"exit codes {codes}", *texts])
    tally.check("and their heartbeats keep apart", [text for text in texts if "wuneng: heartbeat:" in text])
    tally.check("and the folder holds one whole run", not results.identical(runs.out("whole"),
                                                                            runs.out("shared"), runs.steps))


def main():
    tally = Tally()
    with tempfile.TemporaryDirectory() as root:
        runs = Runs(PROGRAM, root, steps=8)
        check_kills(runs, tally)
        check_two_runs(runs, tally)
    return tally.finish()


sys.exit(main())

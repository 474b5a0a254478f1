#!/usr/bin/env python3
"""How runs end: signals to mpirun and to ranks of either role, and ranks that are stopped (SIGSTOP), at
random moments from the start of the processes on.

usage: ends.py WUNENG signals|stops [TRIALS] [SEED]. Default: one, and fewer of the known cases.

A signalled run saves, says so in one line, ends with exit code 75, and when it is started again ends in the
same state as a run that nobody disturbed, to the bit. A stopped rank is named in one report that fits a
screen, and every process is gone within the time-out and two seconds.
"""
import collections
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "layouts"), os.path.join(HERE, "..")]
import ranks  # noqa: E402
import results  # noqa: E402
from runs import ONE, Layout, Runs, children  # noqa: E402

STOPPED = 75
STEPS = 60
# Name, the student's and the teacher's layout, settings. Credits 3 of one micro-batch a pass: the teacher is
# passes ahead.
RUNS = [
    ("one_pass_ahead", Layout(tp=2), ONE, {"teacher.credits": 2}),
    ("passes_ahead", Layout(dp=2), Layout(pp=2), {"teacher.credits": 3, "data.accumulation": 1}),
    ("two_teachers", Layout(pp=2), Layout(dp=2), {"data.accumulation": 1}),
    ("colocated", Layout(dp=2), None, {}),
    # Long matrix products: a signal mostly comes in the midst of one.
    ("wide", Layout(dp=2), None, {"student.hidden_size": 96, "student.intermediate_size": 384,
                                  "data.seq_len": 96, "run.eval_every": 0, "optimizer.steps": 60}),
]
SETTINGS = {"optimizer.steps": STEPS, "run.checkpoint_every": 20, "run.eval_every": 7, "run.eval_batches": 8}
TIMEOUT = 4            # seconds until a wait is a hang
LIMIT = TIMEOUT + 2    # seconds after which every process is gone
SCREEN = 24            # lines


def start(runs, name, student, teacher, settings, **environment):
    command = runs.command(name, student, teacher, SETTINGS | settings)
    return subprocess.Popen(command, env=ranks.environment(WUNENG_CHECK_COLLECTIVES="0", **environment),
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            start_new_session=True)


def processes(run):
    """Of the ranks, by rank."""
    found = {}
    for pid in children(run.pid):
        try:
            with open(f"/proc/{pid}/environ") as f:
                variables = dict(v.split("=", 1) for v in f.read().split("\0") if "=" in v)
            found[int(variables["OMPI_COMM_WORLD_RANK"])] = pid
        except (OSError, KeyError):
            pass  # not one, or not yet
    return dict(sorted(found.items()))


def exists(pid):
    """Whether a process is there and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for_ranks(run, count):
    while len(found := processes(run)) < count:
        if run.poll() is not None:
            raise RuntimeError(f"mpirun ended before its ranks began: {run.communicate()[0]}")
        time.sleep(0.002)
    return found


def finish(run, seconds):
    try:
        return run.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        for pid in [*children(run.pid), run.pid]:
            os.kill(pid, signal.SIGKILL)
        return run.communicate()[0] + "\n(killed by the test)"


class Trials:
    def __init__(self, runs, random_numbers):
        self.runs, self.random, self.seconds = runs, random_numbers, {}

    def base(self, name, *arguments):
        """A run that nobody disturbs, made once: its folder. self.seconds[name] is how long it takes."""
        if name not in self.seconds:
            run = start(self.runs, "base_" + name, *arguments)
            wait_for_ranks(run, 2)
            begin = time.time()
            printed = finish(run, 120)
            if run.returncode:
                raise RuntimeError(f"{name}: {printed}")
            self.seconds[name] = time.time() - begin
        return self.runs.out("base_" + name)

    def begin(self, **environment):
        """A run in a folder of its own, at a random moment of its life."""
        name, student, teacher, settings = self.random.choice(RUNS)
        self.base(name, student, teacher, settings)
        shutil.rmtree(self.runs.out("trial"), ignore_errors=True)
        run = start(self.runs, "trial", student, teacher, settings, **environment)
        total = student.ranks + (teacher.ranks if teacher else 0)
        pids = wait_for_ranks(run, total)
        moment = self.random.uniform(0, 0.9 * self.seconds[name])
        time.sleep(moment)
        return name, (student, teacher, settings), run, pids, moment

    def signal(self):
        """Returns a name of the kind of trial, and what is wrong with it."""
        name, arguments, run, pids, moment = self.begin()
        number = self.random.choice([signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR2,
                                     signal.SIGINT, signal.SIGHUP])
        target = self.random.choice(["mpirun", *pids])
        if target == "mpirun" and number not in (signal.SIGUSR1, signal.SIGUSR2):
            number = signal.SIGUSR1  # the others make mpirun kill its ranks
        kind = f"{number.name} to {'mpirun' if target == 'mpirun' else 'a rank'}"
        about = f"{name}: {number.name} to {target} after {moment:.2f} s"
        if run.poll() is not None:
            return None, None
        try:
            os.kill(run.pid if target == "mpirun" else pids[target], number)
        except ProcessLookupError:
            return None, None
        printed = finish(run, 60)
        out = self.runs.out("trial")
        over = f"held out at step {STEPS}:" in printed and run.returncode == -number  # mpirun was ending
        if over or run.returncode == 0 and "stopped" not in printed:
            return "too late: the last step was under way", None
        if run.returncode == 128 + number and moment < 0.5 and "data: " not in printed:
            return "too early: the program was being loaded", None
        said = printed.count(f"{number.name}: stopped ")
        if run.returncode != STOPPED or said != 1:
            return kind, f"{about}: exit {run.returncode}, said {said} times\n{printed}"
        again = start(self.runs, "trial", *arguments)
        printed = finish(again, 120)
        if again.returncode:
            return kind, f"{about}: continued: exit {again.returncode}\n{printed}"
        same = results.identical(self.base(name), out, STEPS)
        return kind, None if same else f"{about}: continued: another result"

    def stop(self):
        name, _, run, pids, moment = self.begin(WUNENG_HANG_TIMEOUT=str(TIMEOUT))
        lost = self.random.choice(list(pids))
        about = f"{name}: rank {lost} stopped after {moment:.2f} s"
        try:
            os.kill(pids[lost], signal.SIGSTOP)
        except ProcessLookupError:
            return None, None
        begin = time.time()
        printed = finish(run, 30)
        seconds = time.time() - begin
        while (left := [pid for pid in pids.values() if exists(pid)]) and time.time() < begin + LIMIT:
            time.sleep(0.02)
        report = [line for line in printed.splitlines() if line.startswith(("wuneng: ", "  rank"))]
        named = [line for line in report if line.startswith("wuneng: hang: ")]
        problems = []
        if run.returncode == 0:
            if seconds < 1 and not named:
                return "too late: the run was over", None
            problems.append("exit 0")
        if seconds > LIMIT:
            problems.append(f"{seconds:.1f} s, expected at most {LIMIT}")
        if left:
            problems.append(f"processes left: {left}")
        if len(named) != 1 or f"rank {lost} " not in named[0] or len(report) > SCREEN:
            problems.append(f"{len(named)} reports in {len(report)} lines")
        kind = "the first rank" if lost == 0 else "another rank"
        return f"{kind} stopped", f"{about}: {'; '.join(problems)}\n{printed}" if problems else None


    def two_signals_in_a_long_step(self):
        """The first does nothing to the step, and no handler runs on a thread that computes
        (runtime/signals.h); the second ends the run at once."""
        run = start(self.runs, "long", Layout(dp=2), None, {"data.accumulation": 20000})
        pids = wait_for_ranks(run, 2)
        time.sleep(2)
        masks = {}
        for thread in os.listdir(f"/proc/{pids[0]}/task"):
            with open(f"/proc/{pids[0]}/task/{thread}/status") as f:
                masks[int(thread)] = int(re.search(r"SigBlk:\s*(\w+)", f.read())[1], 16)
        usr1 = 1 << (signal.SIGUSR1 - 1)
        if not masks[pids[0]] & usr1:
            yield "the main thread does not block SIGUSR1"
        os.kill(run.pid, signal.SIGUSR1)
        time.sleep(1)
        if run.poll() is not None:
            yield "the first signal ended a step that is under way"
        begin = time.time()
        os.kill(run.pid, signal.SIGUSR1)
        printed = finish(run, 20)
        if run.returncode in (0, STOPPED) or time.time() - begin > 4 or "stopped after" in printed:
            yield f"a second signal: exit {run.returncode} after {time.time() - begin:.1f} s\n{printed}"

    def term_to_mpirun(self):
        """mpirun kills its ranks one second after SIGTERM: enough for a small step."""
        run = start(self.runs, "term", Layout(dp=2), None, {"optimizer.steps": 1000})
        wait_for_ranks(run, 2)
        time.sleep(2)
        run.terminate()
        printed = finish(run, 20)
        said = "SIGTERM: stopped after" in printed and "one second later" in printed
        if run.returncode == 0 or not said:
            yield f"SIGTERM to mpirun: exit {run.returncode}\n{printed}"

    def suspended_job(self):
        """Time in which all ranks are stopped is no hang."""
        run = start(self.runs, "suspended", *RUNS[0][1:], WUNENG_HANG_TIMEOUT=str(TIMEOUT))
        pids = wait_for_ranks(run, 3)
        time.sleep(1.5)
        for number, pause in ((signal.SIGSTOP, TIMEOUT + 2), (signal.SIGCONT, 0)):
            for pid in pids.values():
                os.kill(pid, number)
            time.sleep(pause)
        printed = finish(run, 60)
        if run.returncode:
            yield f"a suspended job: exit {run.returncode}\n{printed}"


def main():
    program, what = os.path.abspath(sys.argv[1]), sys.argv[2]
    trials = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    tried, problems = collections.Counter(), []
    with tempfile.TemporaryDirectory() as root:
        of_runs = Trials(Runs(program, root), random.Random(seed))

        def count(kind, *found):
            tried[kind] += 1
            for problem in filter(None, found):
                problems.append(problem)
                print("FAILED", problem, flush=True)

        known = {"signals": (of_runs.two_signals_in_a_long_step, of_runs.term_to_mpirun),
                 "stops": (of_runs.suspended_job,)}[what]
        for case in known if trials != 1 else known[:1] if what == "signals" else ():
            count(case.__name__.replace("_", " "), *case())
        while trials > 0:
            kind, problem = of_runs.signal() if what == "signals" else of_runs.stop()
            if kind:
                count(kind, problem)
                trials -= 1
    for kind, count in sorted(tried.items()):
        print(f"{count:4} {kind}")
    print(f"{sum(tried.values()) - len(problems)} passed, {len(problems)} failed")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""launch/slurm/train.sbatch on a real Slurm of three nodes or more, which SLURM_CONF names (or the system's):
a job that is told to save goes back into the queue and ends as if nobody had disturbed it, teacher and
student are on nodes of their own, and a rank that is stopped ends the job. Skipped (77) where no Slurm
answers.

usage: slurm.py WUNENG [timed]. timed: also a job that runs into its time limit, which takes minutes.
"""
import os
import re
import shutil
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "layouts"), os.path.join(HERE, "..")]
import ranks  # noqa: E402
import results  # noqa: E402
from checks import run  # noqa: E402
from runs import ONE, Layout, Runs, latest_step  # noqa: E402

SCRIPT = os.path.join(HERE, "..", "..", "launch", "slurm", "train.sbatch")
STEPS, TIMEOUT = 400, 4
SETTINGS = {"optimizer.steps": STEPS, "run.checkpoint_every": 100, "run.eval_every": 0,
            "run.hang_timeout": float(TIMEOUT)}
STUDENT, TEACHER = Layout(tp=2), ONE
# Says where each rank is, in a file of its own, and becomes the program.
WHERE = """#!/bin/bash
echo "$SLURM_PROCID $SLURMD_NODENAME" >> "{root}/where"
exec {program} "$@"
"""


def slurm(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def nodes():
    try:
        return int(slurm("sinfo", "-h", "-t", "idle", "-o", "%D").split()[0])
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return 0


class Job:
    def __init__(self, root, recipe, *options, **environment):
        self.log = os.path.join(root, f"{time.time()}.log")
        # launch/mpi.env is for one host, and Slurm gives each node a name of its own.
        variables = ranks.environment(WUNENG_CHECK_COLLECTIVES="0", OMPI_MCA_btl="self,vader,tcp",
                                      **environment)
        variables = {k: v for k, v in variables.items() if k != "WUNENG_HANG_TIMEOUT"}
        command = ["sbatch", "--parsable", "--output", self.log, *options, SCRIPT, recipe]
        done = subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(done.stderr)
        self.id = done.stdout.strip()

    def state(self):
        return re.search(r"JobState=(\w+)", slurm("scontrol", "show", "job", self.id))[1]

    def printed(self):
        return open(self.log).read() if os.path.exists(self.log) else ""

    def wait(self, reached, seconds):
        end = time.time() + seconds
        while not reached():
            if time.time() > end:
                raise RuntimeError(f"job {self.id}: {self.state()} after {seconds} s\n{self.printed()}")
            time.sleep(0.05)
        return time.time()

    def finished(self):
        return self.state() not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING")


def ranks_of(text):
    """Process ids whose command line contains the text."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as f:
                arguments = f.read().split("\0")
            if text in arguments and arguments[0].endswith("wuneng"):
                found.append(int(pid))
        except OSError:
            pass
    return found


def checks(program, root, timed):
    runs = Runs(program, root)
    wrapper = os.path.join(root, "wuneng.sh")
    with open(wrapper, "w") as f:
        f.write(WHERE.format(root=root, program=program))
    os.chmod(wrapper, 0o755)
    base = runs.run("base", STUDENT, TEACHER, SETTINGS)
    command = runs.command("job", STUDENT, TEACHER, SETTINGS)
    recipe, out = command[-1], runs.out("job")

    # 1. Teacher and student on nodes of their own; a signal, the queue, the rest.
    job = Job(root, recipe, "--nodes=3", "--ntasks-per-node=1", WUNENG=wrapper, STUDENT_RANKS="2",
              TEACHER_RANKS="1", TEACHER_NODES="1")
    job.wait(lambda: latest_step(out) >= 100, 120)
    slurm("scancel", "--signal=USR1", job.id)
    job.wait(lambda: "train.sbatch: exit code 75" in job.printed(), 20)
    saved = latest_step(out)
    yield f"SIGUSR1 to a job saves, at step {saved}", 100 < saved < STEPS
    job.wait(job.finished, 240)
    printed = job.printed()
    yield "the job goes back into the queue and completes", job.state() == "COMPLETED"
    yield ("with all its runs in one log", "run 1," in printed and "run 2," in printed
           and f"resumed from {out}/checkpoints/step_{saved:08} at step {saved}" in printed)
    yield "as if nobody had disturbed it", results.identical(base, out, STEPS)
    where = dict(line.split() for line in open(os.path.join(root, "where")))
    yield f"the teacher has a node of its own: {where}", where["2"] not in (where["0"], where["1"])

    # 2. A rank that does not answer.
    shutil.rmtree(out)
    job = Job(root, recipe, "--nodes=3", "--ntasks-per-node=1", WUNENG=program)
    job.wait(lambda: latest_step(out) >= 100, 120)
    pids = ranks_of(recipe)
    os.kill(pids[0], signal.SIGSTOP)
    begin = time.time()
    ended = job.wait(lambda: not ranks_of(recipe), 60)
    yield f"a stopped rank ends the job, in {ended - begin:.1f} s", ended - begin <= TIMEOUT + 2
    job.wait(job.finished, 60)
    reports = [line for line in job.printed().splitlines() if line.startswith("wuneng: hang: ")]
    yield "with one report", len(reports) == 1 and f"process {pids[0]})" in reports[0]
    yield "and not into the queue", job.state() == "FAILED"

    # 3. scancel: SIGTERM, and SIGKILL later.
    shutil.rmtree(out)
    job = Job(root, recipe, "--nodes=3", "--ntasks-per-node=1", WUNENG=program)
    job.wait(lambda: latest_step(out) >= 100, 120)
    slurm("scancel", job.id)
    job.wait(job.finished, 60)
    yield "scancel saves too", latest_step(out) % 100 != 0 and "SIGTERM: stopped" in job.printed()
    if not timed:
        return

    # 4. The time limit.
    shutil.rmtree(out)
    long = runs.command("long", STUDENT, TEACHER, SETTINGS | {"optimizer.steps": 100000})[-1]
    job = Job(root, long, "--nodes=3", "--ntasks-per-node=1", "--time=2", "--signal=USR1@60", WUNENG=program)
    job.wait(lambda: "run 2," in job.printed() and "resumed from" in job.printed(), 400)
    yield "a job continues after its time limit", "SIGUSR1: stopped" in job.printed()
    slurm("scancel", job.id)


def main():
    if nodes() < 3:
        print("no Slurm of three idle nodes answers: skipped")
        return 77
    return run(lambda root: checks(os.path.abspath(sys.argv[1]), root, "timed" in sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())

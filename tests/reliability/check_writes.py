#!/usr/bin/env python3
"""Every call that changes a file of a run fails once, with each error that it can have: the run must end with
one message that names the file and the reason, and leave its newest committed checkpoint as it was; or go on,
and save what it meant to save.

usage: check_writes.py WUNENG FAULTS_LIBRARY [quick]
"""
import collections
import errno
import os
import shutil
import subprocess
import sys
import tempfile

PROGRAM, LIBRARY = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
QUICK = "quick" in sys.argv[3:]
RECIPE = """
[student]
mixer = "attention"
hidden_size = 16
intermediate_size = 32
layers = 2
heads = 4
vocab_size = 256
[loss]
objective = "ce"
[data]
paths = ["text.txt"]
seq_len = 16
micro_batch = 2
held_out_every = 0
[optimizer]
steps = 2
[run]
out = "run"
device = "cpu"
checkpoint_every = 1
keep = 1
"""
HALF = 0  # in place of an errno: the write takes half of the bytes
ERRORS = {call: (errno.EIO,) for call in ("fsync", "close", "rename", "unlink", "ftruncate")}
ERRORS |= {call: (errno.ENOSPC, errno.EIO, HALF) for call in ("write", "pwrite", "pwrite64")}
ERRORS |= {"mkdir": (errno.ENOSPC,), "create": (errno.ENOSPC,)}


def wuneng(*arguments, **fault):
    environment = dict(os.environ, **{f"WUNENG_FAULT_{k.upper()}": str(v) for k, v in fault.items()})
    if fault:
        environment["LD_PRELOAD"] = LIBRARY
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=60, env=environment)


def export():
    """The model that a reader gets from run/checkpoints."""
    shutil.rmtree("hf", ignore_errors=True)
    done = wuneng("convert", "run/checkpoints", "hf")
    if done.returncode:
        return done.stderr
    with open("hf/model.safetensors", "rb") as f:
        return f.read()


def restore(name):
    shutil.rmtree("run", ignore_errors=True)
    shutil.copytree(name, "run")


def problems_of(error, done, models):
    if done.returncode < 0:
        yield f"ended by signal {-done.returncode}"
    if error == HALF:
        if done.returncode:
            yield f"a short write was not continued: {done.stderr}"
    elif done.returncode == 0:
        yield "the error was not looked at: exit code 0"
    else:
        lines = [x for x in done.stderr.splitlines() if x.startswith("wuneng: error")]
        if len(lines) != 1:
            yield f"expected one message, found {done.stderr!r}"
        elif os.strerror(error) not in lines[0]:
            yield f"the message gives no reason: {lines[0]}"
    found = export()
    if found not in models:
        yield f"the checkpoint that is left is neither the old nor the new one: {found[:300]}"
    elif done.returncode == 0 and found != models[-1]:
        yield "exit code 0, but the new checkpoint is not there"
    # What a failed run has left must not keep the next one from going on.
    again = wuneng("train", "recipe.toml")
    if again.returncode or export() != models[-1]:
        yield f"the next run: exit code {again.returncode}, {again.stderr}"


def calls_of(part, log):
    """(call, path) of a run without a fault."""
    restore("before")
    done = wuneng("train", "recipe.toml", at=0, log=log, **part)
    assert done.returncode == 0, done.stderr
    with open(log) as f:
        return [line.split(" ", 1) for line in f.read().splitlines()]


def faults_of(calls):
    """(number, error); in the short form one error of every fourth call."""
    for number, (call, path) in enumerate(calls, 1):
        if QUICK and number % 4 == 0:
            yield number, ERRORS[call][number // 4 % len(ERRORS[call])]
        elif not QUICK:
            for error in ERRORS[call]:
                yield number, error


def main():
    root = tempfile.mkdtemp()
    os.chdir(root)
    try:
        with open("recipe.toml", "w") as f:
            f.write(RECIPE)
        with open("text.txt", "w") as f:
            f.write("\n".join(map(str, range(2000))))
        models = []
        for stop in (1, 2):
            done = wuneng("train", "recipe.toml", f"run.checkpoint_every={stop}", "run.keep=0")
            assert done.returncode == 0, done.stderr
            models.append(export())
            if stop == 1:  # both steps are there: go back to the first
                shutil.rmtree("run/checkpoints/step_00000002")
                os.remove("run/checkpoints/latest")
                models[0] = export()
                shutil.copytree("run", "before")
        tried, failures = collections.Counter(), 0
        # The lease is renewed by the clock, so its calls are counted for themselves.
        for part in ({"path": "run/", "not": "run/lease"}, {"path": "run/lease"}):
            calls = calls_of(part, os.path.join(root, f"log{len(part)}"))
            for number, error in faults_of(calls):
                call, path = calls[number - 1]
                restore("before")
                done = wuneng("train", "recipe.toml", at=number, error=error, **part)
                tried[call] += 1
                for problem in problems_of(error, done, models):
                    failures += 1
                    name = errno.errorcode.get(error, "short write")
                    print(f"FAILED: {call} {number} of {len(calls)} ({path}), {name}: {problem}", flush=True)
        print(f"{sum(tried.values())} faults ({', '.join(f'{v} {k}' for k, v in sorted(tried.items()))}), "
              f"{failures} failures")
        return 1 if failures or not tried else 0
    finally:
        os.chdir("/")
        shutil.rmtree(root)


sys.exit(main())

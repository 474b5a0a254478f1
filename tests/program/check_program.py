#!/usr/bin/env python3
"""The subcommands as a user calls them: a student that starts with its teacher's function, logits against Hugging Face's, round trips, inspect.

usage: check_program.py WUNENG
"""
import json
import os
import subprocess
import sys
import tempfile

import h5py
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "reference"))
from model_files import read_safetensors  # noqa: E402

PROGRAM = os.path.abspath(sys.argv[1])
GOLDEN = os.path.join(HERE, "..", "golden")


def wuneng(*arguments):
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=120)


def ok(*arguments):
    done = wuneng(*arguments)
    if done.returncode != 0:
        raise RuntimeError(f"wuneng {' '.join(arguments)}: exit {done.returncode}: {done.stderr}")
    return done.stdout


def logits(model, root):
    out = os.path.join(root, "logits.h5")
    ok("logits", model, "--tokens", os.path.join(GOLDEN, "qwen2_tied", "tokens.json"), "--out", out)
    with h5py.File(out, "r") as f:
        return f["logits"][()]


def distance(a, b):
    return np.linalg.norm(np.float64(a) - b) / np.linalg.norm(b)


def checks(root):
    teacher = os.path.join(GOLDEN, "qwen2_tied")
    theirs = read_safetensors(os.path.join(teacher, "expected.safetensors"))["logits"]
    ours = logits(teacher, root)
    yield "logits equal Hugging Face's", distance(ours, theirs) <= 1e-5
    copy = os.path.join(root, "copy")
    ok("convert", teacher, copy)
    a, b = (read_safetensors(os.path.join(d, "model.safetensors")) for d in (teacher, copy))
    yield "a model written back is the same, bit by bit", a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)
    for preset in ("full", "lean", "literal"):
        student = os.path.join(root, preset)
        ok("convert", teacher, student, "--preset", preset)
        yield f"a {preset} student starts with its teacher's function", distance(logits(student, root), ours) <= 1e-6
        stored = sum(v.size for v in read_safetensors(os.path.join(student, "model.safetensors")).values())
        yield f"inspect counts the {preset} student's parameters", f"parameters {stored}\n" in ok("inspect", "--no-tensors", student)
    split = os.path.join(root, "split")
    ok("convert", teacher, split, "--max-file-bytes", "50000")
    yield "several files hold the same model", np.array_equal(logits(split, root), ours) and os.path.exists(os.path.join(split, "model.safetensors.index.json"))
    half = os.path.join(root, "half")
    ok("convert", teacher, half, "--dtype", "bf16")
    yield "bf16 weights are read", 1e-5 < distance(logits(half, root), ours) < 3e-2
    done = wuneng("inspect", os.path.join(root, "nowhere"))
    yield "a missing directory is one clear error", done.returncode != 0 and "nowhere/config.json: cannot be read" in done.stderr
    with open(os.path.join(copy, "config.json")) as f:
        config = json.load(f)
    config["hidden_size"] += 2
    with open(os.path.join(copy, "config.json"), "w") as f:
        json.dump(config, f)
    done = wuneng("logits", copy, "--tokens", os.path.join(teacher, "tokens.json"), "--out", os.path.join(root, "x.h5"))
    yield "a wrong shape names tensor, expected and found", done.returncode != 0 and "expected shape" in done.stderr and "found" in done.stderr


def main():
    passed = failed = 0
    with tempfile.TemporaryDirectory() as root:
        for name, good in checks(root):
            print(("ok     " if good else "FAILED ") + name, flush=True)
            passed += bool(good)
            failed += not good
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())

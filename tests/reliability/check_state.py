#!/usr/bin/env python3
"""State that must not be trained on or saved: gradients that are not finite, moments that are not,
checkpoints of another run, and a run that has nothing to do. Each is said.

usage: check_state.py WUNENG
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "reference"), os.path.join(HERE, "..", "layouts")]
import wuneng_reference as ref  # noqa: E402
from model_files import write_model  # noqa: E402
from tally import Tally  # noqa: E402

PROGRAM = os.path.abspath(sys.argv[1])
RECIPE = """
student.init_from = "MODEL"
student.mixer = "attention"
loss.objective = "ce"
data.paths = ["text.txt"]
data.seq_len = 16
data.micro_batch = 2
data.held_out_every = 0
optimizer.steps = 4
run.out = "run"
run.device = "cpu"
"""


def make_models():
    """`good`, and `bad`, whose last norm overflows."""
    c = ref.Config(mixer="attention", vocab_size=256, hidden_size=32, num_heads=4, num_kv_heads=2)
    weights = ref.init_model(c, np.random.default_rng(0))
    write_model("good", c, weights)
    weights["norm"] = np.full_like(weights["norm"], 3e38)
    write_model("bad", c, weights)
    for model in ("good", "bad"):
        with open(f"{model}.toml", "w") as f:
            f.write(RECIPE.replace("MODEL", model))
    with open("text.txt", "w") as f:
        f.write("\n".join(map(str, range(2000))))


def train(model, *settings, keep=False):
    if not keep:
        shutil.rmtree("run", ignore_errors=True)
    done = subprocess.run([PROGRAM, "train", f"{model}.toml", *settings], capture_output=True, text=True,
                          timeout=60)
    return done.returncode, done.stdout + done.stderr


def has(result, code, *texts):
    """What is wrong with a run's exit code and output."""
    good = result[0] == code and all(text in result[1] for text in texts)
    return [] if good else [f"exit {result[0]}", result[1]]


def checkpoints():
    return sorted(x for x in os.listdir("run/checkpoints") if x.startswith("step_"))


def check(tally):
    tally.check("a gradient that is not finite ends the run",
                has(train("bad"), 1, "step 1: the gradient's norm is", "parameters were not updated"))
    tally.check("nothing is saved", checkpoints() != [])
    tally.check("or updates are skipped, up to a number in a row",
                has(train("bad", "run.on_nan=skip", "run.max_skipped=2"), 1, "step 3:", "after 2 skipped"))
    tally.check("a run of skipped updates is one whose weights stay",
                has(train("bad", "run.on_nan=skip", "optimizer.steps=2"), 0))
    with open("run/metrics.jsonl") as f:
        tally.check("and metrics.jsonl says so", not all(json.loads(line).get("skipped") for line in f))
    tally.check("optimizer.eps = 0 is refused", has(train("good", "optimizer.eps=0"), 1, "optimizer.eps"))

    tally.check("a run", has(train("good"), 0))
    tally.check("that has done its steps says so",
                has(train("good", "optimizer.steps=3", keep=True), 0, "there is nothing to train"))
    shutil.copytree("run", "mine")
    train("good", "run.seed=5")
    shutil.rmtree("run/checkpoints/step_00000004")
    shutil.copytree("mine/checkpoints/step_00000004", "run/checkpoints/step_00000004")
    tally.check("a checkpoint of another run under its name is not resumed",
                has(train("good", keep=True), 1, "expected one of run"))
    with open("run/metrics.jsonl") as f:
        tally.check("and metrics.jsonl stays", len(f.readlines()) != 4)
    shutil.rmtree("run")
    shutil.copytree("mine", "run")
    tally.check("a new run in a used folder says what is there",
                has(train("good", "run.resume=none", "optimizer.steps=2", keep=True), 0,
                    "holds checkpoints up to step 4 of an earlier run"))
    tally.check("and saves its own", checkpoints() != ["step_00000002", "step_00000004"])


def main():
    tally = Tally()
    root = tempfile.mkdtemp()
    os.chdir(root)
    try:
        make_models()
        check(tally)
    finally:
        os.chdir("/")
        shutil.rmtree(root)
    return tally.finish()


sys.exit(main())

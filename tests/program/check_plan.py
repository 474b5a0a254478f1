#!/usr/bin/python3
"""`wuneng plan`: the memory that it says against what runs hold, and its layouts.

usage: check_plan.py WUNENG
"""
import json
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "..", "layouts")]
from checks import run  # noqa: E402
import parity  # noqa: E402
from runs import ONE, RECIPE, Layout, Runs  # noqa: E402

PROGRAM = os.path.abspath(sys.argv[1])
WITHIN = 0.03
SIZES = {"student.hidden_size": 128, "student.intermediate_size": 352, "student.layers": 4,
         "student.heads": 4, "student.kv_heads": 2, "student.head_dim": 32, "student.vocab_size": 1024,
         "student.chunk": 64, "data.seq_len": 128, "loss.chunk_tokens": 64, "run.eval_every": 0}
CASES = [
    ("a colocated teacher", ONE, None, {}),
    ("recomputation of layers", ONE, None, {"run.recompute": True}),
    ("recomputation of mixers and MLPs", ONE, None, {"run.recompute": "mixer+mlp"}),
    ("a streaming teacher", Layout(tp=2), ONE, {}),
    ("ZB-V", Layout(pp=2, schedule="zb_v"), None, parity.SUPERVISED),
    ("ZeRO-1, tp", Layout(dp=2, tp=2), None, parity.SUPERVISED),
    ("alignment, pp", Layout(pp=2), ONE, parity.ALIGN),
    ("lean, bf16", ONE, None, parity.SUPERVISED | {"student.preset": "lean", "student.dtype": "bf16"}),
    ("rwkv7", ONE, None, parity.SUPERVISED | parity.RWKV7),
    ("rwkv7, pp", Layout(pp=2), None, parity.SUPERVISED | parity.RWKV7),
]


def plan(*arguments):
    return subprocess.run([PROGRAM, "plan", *arguments], capture_output=True, text=True)


def peaks(printed):
    """Bytes by stage of the student."""
    rows = printed.split("teacher: dp")[0].splitlines()
    found = [re.match(r"  \d+ .* (\S+) +\S+$", row) for row in rows]
    return [float(m[1]) * 2**30 for m in found if m]


def checks(root):
    runs = Runs(PROGRAM, root, {**RECIPE, **SIZES}, steps=2)
    for i, (name, student, teacher, settings) in enumerate(CASES):
        out = runs.run(f"run{i}", student, teacher, settings | {"run.checkpoint_every": 0})
        with open(os.path.join(out, "metrics.jsonl")) as f:
            held = max(json.loads(line)["peak_tensor_bytes"] for line in f)
        stages = peaks(plan(out + ".toml").stdout)
        said = stages[0 if student.schedule == "zb_v" else -1]  # of the stage that has the loss, and logs
        yield (f"{name}: {said / held:.4f} of the bytes that a run holds",
               len(stages) == student.pp and abs(said / held - 1) <= WITHIN)

    # A whole layer's activations are there at a time: of few layers that is more than what halves keep.
    bytes_of = {again: peaks(plan(os.path.join(root, "run0.toml"), f"run.recompute={again}",
                                  "student.layers=16").stdout)[0]
                for again in ("none", "mixer", "mlp", "mixer+mlp", "layer")}
    yield ("what is recomputed needs no memory: none > a half > both halves > layer",
           bytes_of["none"] > max(bytes_of["mixer"], bytes_of["mlp"])
           and min(bytes_of["mixer"], bytes_of["mlp"]) > bytes_of["mixer+mlp"] > bytes_of["layer"])

    recipe = os.path.join(root, "run3.toml")
    known = plan(recipe, "--gpus", "8").stdout
    first = re.search(r"^the first: wuneng train \S+ (.*)$", known, re.M)
    yield "layouts of 8 GPUs", first is not None and len(known.splitlines()) > 4
    degrees = dict(setting.split("=") for setting in first[1].split())
    product = [int(degrees[f"{side}.{degree}"]) for side in ("layout", "teacher.layout")
               for degree in ("dp", "pp", "tp")]
    yield ("they have 8 ranks",
           product[0] * product[1] * product[2] + product[3] * product[4] * product[5] == 8)
    yield "the first is a recipe", plan(recipe.replace("run3", "run0"), *first[1].split()).returncode == 0
    refused = plan(recipe, "--gpus", "1")
    yield ("one GPU is refused by name",
           refused.returncode == 1 and "expected at least 2 GPUs" in refused.stderr)
    refused = plan(recipe, "--gpus", "8", "student.hidden_size=65536", "student.intermediate_size=1048576")
    yield ("what does not fit is said", refused.returncode == 1 and "the smallest needs" in refused.stderr)


if __name__ == "__main__":
    sys.exit(run(checks))

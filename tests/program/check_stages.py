#!/usr/bin/python3
"""The chain of all stages with the recipes of launch/recipes/quickstart_*.toml, shortened: a teacher,
attention alignment, distillation, supervised fine-tuning and preference optimisation, each from the run
before it.

usage: check_stages.py WUNENG
"""
import json
import math
import os
import subprocess
import sys

import numpy as np
from commands import HERE, PROGRAM, ok, refused, run

sys.path.insert(0, os.path.join(HERE, "..", "layouts"))
import ranks  # noqa: E402
import results  # noqa: E402

RECIPES = os.path.join(HERE, "..", "..", "launch", "recipes")
TEXT = "The state of a head is a matrix. A token writes into it and reads from it. "
SHORT = ["data.seq_len=128", "data.accumulation=1", "run.eval_every=0", "optimizer.warmup=1"]


def train(root, name, count, steps, *settings):
    """A stage in `root`, where all paths of the recipes lie: (process, the run's folder)."""
    path = os.path.join(RECIPES, f"quickstart_{name}.toml")
    command = ranks.command(count, PROGRAM, "train", path, *SHORT, f"optimizer.steps={steps}", *settings)
    done = subprocess.run(command, cwd=root, env=ranks.environment(), capture_output=True, text=True,
                          timeout=300)
    with open(path) as f:
        out, = (line.split('"')[1] for line in f if line.startswith("out = "))
    return done, os.path.join(root, out)


def trained(*arguments):
    done, out = train(*arguments)
    if done.returncode != 0:
        raise RuntimeError(f"{arguments}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return [x for x in results.metrics(out) if "loss" in x], out


def write_lines(path, records):
    with open(path, "w") as f:
        f.writelines(json.dumps(r) + "\n" for r in records)


def models_of(root, out, step):
    return {k: v for k, v in results.tensors(out, step).items() if k.startswith("model/")}


def moved(before, after):
    return results.differing_tensors(before, after)


def checks(root):
    text = os.path.join(root, "text.md")
    with open(text, "w") as f:
        f.write(TEXT * 300)
    data = f'data.paths=["{text}"]'
    train_teacher, teacher = trained(root, "teacher", 2, 60, data)
    ok("convert", os.path.join(teacher, "checkpoints"), os.path.join(teacher, "model"))

    align, out = trained(root, "align", 6, 30, data)
    aligned = models_of(root, out, 30)
    yield "stage 1: the distance falls", align[-1]["loss"] < 0.8 * align[0]["loss"]
    inherited = models_of(root, teacher, 60)
    yield ("stage 1 trains the mixers alone",
           not [k for k in moved({k: aligned[k] for k in inherited if "self_attn" not in k},
                                 {k: v for k, v in inherited.items() if "self_attn" not in k})])
    _, out = trained(root, "student", 6, 1, data, "optimizer.lr=0.0", "optimizer.min_lr=0.0")
    yield "stage 2 starts where stage 1 has ended, to the bit", not moved(aligned, models_of(root, out, 1))
    distil, out = trained(root, "student", 6, 40, data, "run.resume=none")
    yield "stage 2: KL falls", distil[-1]["kl"] < 0.7 * max(x["kl"] for x in distil[:5])
    yield "and its schedule starts anew", distil[0]["step"] == 1 and distil[0]["lr"] > distil[-1]["lr"]

    answers, pairs = os.path.join(root, "answers.jsonl"), os.path.join(root, "pairs.jsonl")
    write_lines(answers, [{"prompt": f"Q {i}? ", "completion": TEXT[:40]} for i in range(200)])
    write_lines(pairs, [{"prompt": f"Q {i}? ", "chosen": TEXT[:20], "rejected": TEXT[20:40].upper()}
                        for i in range(100)])
    here = os.path.join(root, "out", "quickstart")
    ok("tokenize", answers, "--tokenizer", "bytes", "--out", os.path.join(here, "sft"))
    ok("tokenize", pairs, "--tokenizer", "bytes", "--out", os.path.join(here, "pairs"))
    sft, _ = trained(root, "sft", 1, 20)
    yield "SFT: the answers' cross entropy falls", sft[-1]["loss"] < 0.9 * sft[0]["loss"]
    dpo, _ = trained(root, "dpo", 2, 15, "optimizer.lr=1e-3")
    yield ("DPO starts at the reference: log 2 and no margin",
           abs(dpo[0]["loss"] - math.log(2)) < 1e-5 and abs(dpo[0]["margin"]) < 1e-4)
    yield "DPO: the margin grows", dpo[-1]["loss"] < 0.6 and dpo[-1]["margin"] > 0.1

    with open(os.path.join(here, "sft.json")) as f:
        info = json.load(f)
    with open(os.path.join(here, "sft.json"), "w") as f:
        json.dump(info | {"tokenizer": "0123456789abcdef"}, f)
    done, _ = train(root, "sft", 1, 5, "run.resume=none")
    yield ("tokens of another tokenizer than the stage before had are refused",
           refused(done, "expected tokens of the student's tokenizer, bytes of",
                   "found tokens of tokenizer 0123456789abcdef"))
    yield "the four stages trained", all(np.isfinite([x["loss"] for x in s]).all()
                                         for s in (train_teacher, align, distil, sft, dpo))


if __name__ == "__main__":
    sys.exit(run(checks))

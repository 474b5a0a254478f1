#!/usr/bin/env python3
"""A real teacher, SmolLM2-135M-Instruct (launch/smollm2.py): logits against transformers, a student that
starts with its function, here and in transformers, and a short distillation of a student of 10 layers.

usage: check_teacher.py WUNENG [quick]       quick: without the distillation
Ends with status 77 (skipped) where this python has no torch, transformers or h5py, and without pip or PyPI.
"""
import glob
import json
import os
import shutil
import struct
import subprocess
import sys
import sysconfig

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(HERE, ".."))
from checks import run  # noqa: E402

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
try:
    import h5py
    import numpy as np
    import torch
    import transformers
except ImportError as e:
    print(f"skipped: {e}; cmake -DTRANSFORMERS_PYTHON=... names a python with torch, transformers and h5py")
    sys.exit(77)

PROGRAM, QUICK = os.path.abspath(sys.argv[1]), "quick" in sys.argv[2:]
TEXT = ("The quick brown fox jumps over 12,345 lazy dogs; naïve — 中文.\n\n"
        "def rotate(x, cos, sin):\n        return x * cos - x[::-1] * sin  # a rotation\n")
WITHIN = 1e-5  # relative, of logits in f32
STEPS = 40
RECIPE = """
student.init_from = "{root}/ten"
student.mixer = "wuneng"
student.preset = "lean"
student.max_position_embeddings = 8192
teacher.path = "{root}/teacher"
teacher.mode = "colocated"
loss.objective = "kl"
data.paths = ["{root}/text"]
data.seq_len = 256
data.micro_batch = 2
optimizer.lr = 5e-4
optimizer.warmup = 5
optimizer.steps = {steps}
optimizer.weight_decay = 0.0
run.out = "{root}/run"
run.eval_every = {steps}
run.eval_batches = 4
run.log_every = 10
"""


def call(*command):
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == 77:
        print("skipped:", done.stderr.strip())
        sys.exit(77)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr}")


def wuneng(*arguments):
    call(PROGRAM, *arguments)


def our_logits(model, ids, root):
    tokens, out = os.path.join(root, "tokens.json"), os.path.join(root, "logits.h5")
    with open(tokens, "w") as f:
        json.dump(ids, f)
    wuneng("logits", model, "--tokens", tokens, "--out", out, "--device", "cpu")
    with h5py.File(out, "r") as f:
        return f["logits"][()]


@torch.no_grad()
def their_logits(directory, ids):
    how = {"torch_dtype" if transformers.__version__ < "4.56" else "dtype": torch.float32}
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True, **how).eval()
    return type(model).__name__, model(torch.tensor([ids])).logits[0].numpy()


def relative(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def write_token_files(prefix, documents):
    """Megatron's format, i32."""
    sizes = np.array([len(d) for d in documents], np.int32)
    with open(prefix + ".bin", "wb") as f:
        f.write(np.concatenate(documents).astype(np.int32).tobytes())
    with open(prefix + ".idx", "wb") as f:
        f.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 4, len(sizes), len(sizes) + 1) + sizes.tobytes())
        f.write((4 * (np.cumsum(sizes, dtype=np.int64) - sizes)).tobytes())
        f.write(np.arange(len(sizes) + 1, dtype=np.int64).tobytes())


def check_distillation(root, tokenizer):
    """On the text of Python's standard library."""
    paths = sorted(glob.glob(os.path.join(sysconfig.get_paths()["stdlib"], "*.py")))[:120]
    texts = []
    for path in paths:
        with open(path, encoding="utf-8", errors="replace") as f:
            texts.append(np.array(tokenizer(f.read()).input_ids + [0]))
    write_token_files(os.path.join(root, "text"), texts)
    recipe = os.path.join(root, "recipe.toml")
    with open(recipe, "w") as f:
        f.write(RECIPE.format(root=root, steps=STEPS))
    wuneng("train", recipe)
    with open(os.path.join(root, "run", "metrics.jsonl")) as f:
        lines = [json.loads(line) for line in f]
    kl = [x["held_out_kl"] for x in lines if "held_out_kl" in x]
    speed = [x["tokens_per_second"] for x in lines if "tokens_per_second" in x]
    yield (f"{STEPS} steps of a student of 10 layers bring KL(teacher || student) on held-out text from "
           f"{kl[0]:.3f} to {kl[-1]:.3f} ({np.median(speed):.0f} tokens/s)", kl[-1] < 0.8 * kl[0])


def check(root):
    teacher, student = os.path.join(root, "teacher"), os.path.join(root, "student")
    script = os.path.join(HERE, "..", "..", "launch", "smollm2.py")
    call(sys.executable, script, teacher)
    call(sys.executable, script, os.path.join(root, "ten"), "--layers", "10")
    tokenizer = transformers.AutoTokenizer.from_pretrained(teacher)
    ids = tokenizer(TEXT).input_ids
    yield "the tokenizer gives the text again", tokenizer.decode(ids) == TEXT
    ours = our_logits(teacher, ids, root)
    name, theirs = their_logits(teacher, ids)
    off = relative(ours, theirs)
    yield f"the teacher is a {name}, with transformers' logits ({off:.1e})", off <= WITHIN
    entropy = torch.nn.functional.cross_entropy(torch.tensor(ours[:-1]), torch.tensor(ids[1:])).item()
    yield f"it knows language: {entropy:.2f} nats a token", entropy < 5
    for preset in ("full", "literal"):
        wuneng("convert", teacher, student, "--preset", preset, "--dtype", "f32")
        off = relative(our_logits(student, ids, root), ours)
        yield f"a {preset} student starts with its teacher's logits ({off:.1e})", off <= WITHIN
        name, found = their_logits(student, ids)
        off = relative(found, theirs)
        yield f"and is a {name} in transformers, with the same ({off:.1e})", off <= WITHIN
        shutil.rmtree(student)
    if not QUICK:
        yield from check_distillation(root, tokenizer)


def main():
    return run(check)


if __name__ == "__main__":
    sys.exit(main())

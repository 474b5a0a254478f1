#!/usr/bin/env python3
"""Recipes, command lines, config.json and index files with values of all kinds in them: each is taken, or is
one line of error before any work. Never a crash, a hang, a second line or an output half written.

usage: mutate_inputs.py WUNENG [CASES]
"""
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(HERE, "..", "reference"))
import numpy as np  # noqa: E402

import wuneng_reference as ref  # noqa: E402
from model_files import write_model  # noqa: E402

PROGRAM = os.path.abspath(sys.argv[1])
CASES = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
SECONDS = 60  # for one command

RECIPE = {
    "student.mixer": "attention", "student.hidden_size": 16, "student.intermediate_size": 32,
    "student.layers": 2, "student.heads": 4, "student.kv_heads": 2, "student.head_dim": 4,
    "student.vocab_size": 256,
    "student.rope_theta": 1e6, "student.layer_mixers": ["0:wuneng"], "student.chunk": 8,
    "student.freeze": ["*norm*"], "student.dtype": "f32", "student.init_from": "model",
    "teacher.path": "model", "teacher.mode": "colocated", "teacher.credits": 2, "teacher.layout.tp": 1,
    "layout.dp": 1, "layout.pp": 1, "loss.objective": "ce", "loss.temperature": 1.0, "loss.chunk_tokens": 0,
    "data.paths": ["text.txt"], "data.seq_len": 16, "data.micro_batch": 1, "data.accumulation": 1,
    "data.held_out_every": 0, "data.seed": 1, "optimizer.lr": 1e-3, "optimizer.min_lr": 1e-4,
    "optimizer.warmup": 1, "optimizer.steps": 1, "optimizer.eps": 1e-8, "optimizer.clip": 1.0,
    "run.resume": "none", "run.checkpoint_every": 0, "run.eval_every": 0, "run.eval_batches": 1,
    "run.log_every": 1, "run.keep": 1, "run.hang_timeout": 60.0}
NEEDED = ("student.mixer", "student.hidden_size", "student.intermediate_size", "student.layers",
          "student.heads", "student.vocab_size", "loss.objective", "data.paths", "data.seq_len",
          "data.micro_batch", "optimizer.steps")
# As TOML and as JSON writes them.
TOML_VALUES = (
    "0", "-1", "1", "2", "3", "7", "2.9", "1e18", "1e400", "nan", "-inf", "9" * 20, "-" + "9" * 25,
    "1000000000", "9223372036854775807", "0xFFFFFFFFFFFFFFFFFF", "true", '""', '"x"', '"a\\"b\\\\"',
    '"line\\nfeed"', '"\\u0000"', '"\\U0001F600"', "[]", "[[]]", '["x", 1]', "{}", "{a = 1}", "2024-01-01",
    "abc", "[1", '"abc', "'", "", "#", "\x01", "é")
JSON_VALUES = (
    "0", "-1", "1", "3", "2.9", "2.0", "1e18", "1e400", "NaN", "9" * 20, "-" + "9" * 25, "1000000000",
    "9223372036854775807", "18446744073709551615", "true", "null", '""', '"2"', '"x\\u0000y"', "[]", "[1]",
    "{}", '{"type": "yarn", "factor": 2}', '{"a": {"b": []}}', "1e-300", "-0.0", "\x01", "{")


def recipe_line(rng, key, value):
    """key = value in TOML, with something wrong in it now and then."""
    if rng.random() < 0.01:
        at = rng.randrange(len(key))
        key = key[:at] + rng.choice(("", "x", "..", " ", "[", '"')) + key[at + 1:]
    return f"{key} = {value}"


def mutated_recipe(rng, root):
    """Arguments of `wuneng train`."""
    settings = {k: json.dumps(v) for k, v in RECIPE.items() if k in NEEDED or rng.random() < 0.1}
    for key in rng.sample(sorted(settings), rng.randint(0, 2)):
        settings[key] = rng.choice(TOML_VALUES)
    lines = [recipe_line(rng, key, value) for key, value in settings.items()]
    if rng.random() < 0.05:
        del lines[rng.randrange(len(lines))]
    path = os.path.join(root, "r.toml")
    with open(path, "w") as f:
        f.write("\n".join(lines) + "\n" + 'run.out = "out"\nrun.device = "cpu"\n')
    overrides = []
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        equals = "=" if rng.random() < 0.95 else ""
        overrides.append(rng.choice(sorted(RECIPE)) + equals + rng.choice(TOML_VALUES))
    return ["train", path, *overrides]


def put_json(path, content, rng):
    """Writes an object with values replaced, by text that may be no JSON."""
    places = rng.sample(sorted(content), min(len(content), rng.randint(0, 1)))
    extra = rng.choice(("rope_scaling", "rope_parameters", "quantization_config", "layer_types", "head_dim",
                        "text_config", "sliding_window", "eos_token_id"))
    members = {k: json.dumps(v) for k, v in content.items()}
    for key in places + ([extra] if rng.random() < 0.5 else []):
        members[key] = rng.choice(JSON_VALUES)
    if rng.random() < 0.1:
        members.pop(rng.choice(sorted(members)))
    with open(path, "w") as f:
        f.write("{" + ", ".join(f"{json.dumps(k)}: {v}" for k, v in members.items()) + "}")


def mutated_model(rng, root):
    """Arguments of a command that reads a model."""
    model = os.path.join(root, "mutated")
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(os.path.join(root, "model"), model)
    with open(os.path.join(model, "config.json")) as f:
        put_json(os.path.join(model, "config.json"), json.load(f), rng)
    if rng.random() < 0.3:  # the header of the weights, and an index beside them
        weights = os.path.join(model, "model.safetensors")
        with open(weights, "r+b") as f:
            f.seek(rng.randrange(600))
            f.write(bytes([rng.randrange(256)]))
    if rng.random() < 0.2:
        put_json(os.path.join(model, "model.safetensors.index.json"),
                 {"weight_map": {"model.norm.weight": "model.safetensors"}}, rng)
    return rng.choice((["inspect", model], ["convert", model, "out"],
                       ["convert", model, "out", "--preset", "lean"],
                       ["logits", model, "--tokens", "tokens", "--out", "x.h5"],
                       ["generate", model, "--prompt", "x", "--tokens", "2", "--tokenizer", "bytes"]))


def wrong(done, root):
    """What is wrong with the end of a command; None where it is right."""
    if done.returncode not in (0, 1):
        return f"exit code {done.returncode}"
    lines = done.stderr.splitlines()
    errors = [line for line in lines if line.startswith("wuneng: error: ")]
    if (done.returncode == 1) != (len(errors) == 1) or done.returncode == 1 and len(lines) > 1:
        return f"exit code {done.returncode} with {len(lines)} lines"
    if errors and errors[0].endswith(("std::bad_alloc", "vector::_M_default_append")):
        return "an error that does not say what is wrong"
    out = os.path.join(root, "out")
    if done.returncode == 1 and os.path.isdir(out) and "config.json" in os.listdir(out):
        return "an output beside an error"
    if os.path.isdir(out) and ".wuneng.partial" in os.listdir(out):
        return "a part of an output"
    return None


def main():
    failed = taken = 0
    with tempfile.TemporaryDirectory() as root:
        shape = ref.Config(mixer="attention", vocab_size=256)
        write_model(os.path.join(root, "model"), shape, ref.init_model(shape, np.random.default_rng(1)))
        for name, content in (("text.txt", "So it goes. " * 50), ("tokens", "1 2 3")):
            with open(os.path.join(root, name), "w") as f:
                f.write(content)
        for case in range(CASES):
            rng = random.Random(case)
            shutil.rmtree(os.path.join(root, "out"), ignore_errors=True)
            arguments = rng.choice((mutated_recipe, mutated_model))(rng, root)
            try:
                done = subprocess.run([PROGRAM, *arguments], cwd=root, capture_output=True, text=True,
                                      timeout=SECONDS, errors="replace")
                problem = wrong(done, root)
                taken += done.returncode == 0
            except subprocess.TimeoutExpired:
                done, problem = None, f"not ended after {SECONDS} s"
            if problem:
                failed += 1
                print(f"FAILED case {case}: {problem}: wuneng {arguments}")
                name = "r.toml" if arguments[0] == "train" else "mutated/config.json"
                with open(os.path.join(root, name), errors="replace") as f:
                    print(f.read())
                print(done.stderr[-600:] if done else "", flush=True)
    print(f"{CASES - failed} passed, {failed} failed ({taken} taken)")
    return 1 if failed or not 0 < taken < CASES else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""The subcommands as a user calls them: a student that starts with its teacher's function, logits against
Hugging Face's, round trips, inspect.

usage: check_program.py WUNENG
"""
import glob
import json
import os
import shutil
import sys

import h5py
import numpy as np
from commands import GOLDEN, HERE, ok, refused, run, wuneng

import wuneng_reference as ref
from model_files import read_safetensors, write_model

EVERY_KEY = os.path.join(HERE, "..", "..", "launch", "recipes", "every_key.toml")


def logits(model, root, golden="qwen2_tied"):
    out = os.path.join(root, "logits.h5")
    ok("logits", model, "--tokens", os.path.join(GOLDEN, golden, "tokens.json"), "--out", out)
    with h5py.File(out, "r") as f:
        return f["logits"][()]


def distance(a, b):
    return np.linalg.norm(np.float64(a) - b) / np.linalg.norm(b)


def check_family(root, name):
    """A model of another family: as transformers has it, and a student of it."""
    model, copy, student = (os.path.join(d, name) for d in (GOLDEN, root, os.path.join(root, "full_of")))
    theirs = read_safetensors(os.path.join(model, "expected.safetensors"))["logits"]
    ours = logits(model, root, name)
    yield f"{name}: logits equal Hugging Face's", distance(ours, theirs) <= 1e-5
    ok("convert", model, copy)
    configs = [json.load(open(os.path.join(d, "config.json"))) for d in (model, copy)]
    yield (f"{name}: written back as what it is",
           all(configs[0][key] == configs[1][key] for key in ("model_type", "architectures"))
           and not os.path.exists(os.path.join(copy, "modeling_wuneng.py"))
           and np.array_equal(logits(copy, root, name), ours))
    ok("convert", model, student, "--preset", "full")
    yield (f"{name}: a student starts with its teacher's function",
           distance(logits(student, root, name), ours) <= 1e-6)


def checks(root):
    teacher = os.path.join(GOLDEN, "qwen2_tied")
    theirs = read_safetensors(os.path.join(teacher, "expected.safetensors"))["logits"]
    ours = logits(teacher, root)
    yield "logits equal Hugging Face's", distance(ours, theirs) <= 1e-5
    copy = os.path.join(root, "copy")
    ok("convert", teacher, copy)
    a, b = (read_safetensors(os.path.join(d, "model.safetensors")) for d in (teacher, copy))
    yield ("a model written back is the same, bit by bit",
           a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a))
    for preset in ("full", "lean", "literal"):
        student = os.path.join(root, preset)
        ok("convert", teacher, student, "--preset", preset)
        yield (f"a {preset} student starts with its teacher's function",
               distance(logits(student, root), ours) <= 1e-6)
        stored = sum(v.size for v in read_safetensors(os.path.join(student, "model.safetensors")).values())
        yield (f"inspect counts the {preset} student's parameters",
               f"parameters {stored}\n" in ok("inspect", "--no-tensors", student))
    for family in ("qwen2_window", "qwen3", "llama", "mistral"):
        yield from check_family(root, family)
    split = os.path.join(root, "split")
    ok("convert", teacher, split, "--max-file-bytes", "50000")
    yield ("several files hold the same model",
           np.array_equal(logits(split, root), ours)
           and os.path.exists(os.path.join(split, "model.safetensors.index.json")))
    half = os.path.join(root, "half")
    ok("convert", teacher, half, "--dtype", "bf16")
    yield "bf16 weights are read", 1e-5 < distance(logits(half, root), ours) < 3e-2
    done = wuneng("inspect", os.path.join(root, "nowhere"))
    yield "a missing directory is one clear error", refused(done, "nowhere/config.json: cannot be read")
    with open(os.path.join(copy, "config.json")) as f:
        config = json.load(f)
    config["hidden_size"] += 2
    with open(os.path.join(copy, "config.json"), "w") as f:
        json.dump(config, f)
    done = wuneng("logits", copy, "--tokens", os.path.join(teacher, "tokens.json"),
                  "--out", os.path.join(root, "x.h5"))
    yield "a wrong shape names tensor, expected and found", refused(done, "expected shape", "found")


def write_lines(path, lines):
    with open(path, "w") as f:
        f.write("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


RECIPE = """
[student]
mixer = "attention"
hidden_size = 16
intermediate_size = 32
layers = 1
heads = 2
vocab_size = {vocab}
[loss]
objective = "ce"
[data]
paths = {paths}
packing = "best_fit"
seq_len = 64
held_out_every = 8
[optimizer]
lr = 1e-2
steps = 20
[run]
out = "{out}"
eval_every = 20
"""


def settings(path):
    """Key -> value, as text, of a recipe without line breaks inside values."""
    found, section = {}, ""
    for line in open(path):
        line = line.split("#")[0].strip()
        if line.startswith("["):
            section = line.strip("[]") + "."
        elif line:
            key, value = line.split(" = ", 1)
            found[section + key] = value
    return found


def same(a, b):
    try:
        return float(a) == float(b)
    except ValueError:
        return a == b


def unknown_keys():
    """Of the recipes in launch/recipes: keys that every_key.toml does not have, also behind a #."""
    with open(EVERY_KEY) as f:
        commented = {line[1:].split(" = ")[0].strip() for line in f if line.startswith("#") and " = " in line}
    known = settings(EVERY_KEY).keys()
    return [f"{path}: {key}" for path in glob.glob(os.path.join(os.path.dirname(EVERY_KEY), "**", "*.toml"),
                                                   recursive=True)
            for key in settings(path) if key not in known and key.split(".")[-1] not in commented]


MINIMAL = """
[student]
hidden_size = 96
intermediate_size = 256
layers = 3
heads = 6
vocab_size = 256
[teacher]
path = "{teacher}"
mode = "colocated"
[data]
paths = ["{text}"]
seq_len = 16
[optimizer]
steps = 1
[run]
out = "{out}"
"""


def help_texts(path, options):
    """Option -> the comment behind it."""
    lines = [line.split("#", 1) for line in open(path) if "#" in line]
    keys = ((line.split(" = ")[0].strip(), comment.strip()) for line, comment in lines)
    return {key: comment for key, comment in keys if key in options}


def recipe_checks(root):
    """launch/recipes/every_key.toml against what a run says that it used, and against the mixer's table of
    options."""
    names = ("text.txt", "minimal", "minimal.toml", "teacher")
    text, out, path, teacher = (os.path.join(root, name) for name in names)
    shape = ref.Config(mixer="attention", vocab_size=256, num_layers=3)
    write_model(teacher, shape, ref.init_model(shape, np.random.default_rng(1)))
    with open(text, "w") as f:
        f.write("So it goes. " * 2000)
    with open(path, "w") as f:
        f.write(MINIMAL.format(teacher=teacher, text=text, out=out))
    ok("train", path)
    used, told = settings(os.path.join(out, "recipe.toml")), settings(EVERY_KEY)
    amiss = sorted(used.keys() ^ told.keys())
    yield f"every_key.toml has every key {amiss or ''}", not amiss
    defaults = (used.keys() & told.keys()) - settings(path).keys()
    amiss = [f"{k} = {used[k]}, told {told[k]}" for k in defaults if not same(used[k], told[k])]
    yield f"and every default {amiss or ''}", not amiss
    amiss = unknown_keys()
    yield f"recipes have keys that it has {amiss or ''}", not amiss
    inspected = ok("inspect", "--no-tensors", os.path.join(out, "checkpoints"))
    table = dict(line.strip().split(" # ", 1) for line in inspected.splitlines() if " # " in line)
    options = {setting.split(" = ")[0].strip(): setting.split(" = ")[1].strip() for setting in table}
    amiss = [k for k, v in options.items() if not same(used.get("student." + k, "none"), v)]
    yield f"inspect shows the options that the run used {amiss or ''}", options and not amiss
    wanted, found = dict(zip(options, map(str.strip, table.values()))), help_texts(EVERY_KEY, options)
    amiss = [f"{k}: {found.get(k)} for {v}" for k, v in wanted.items() if found.get(k) != v]
    yield f"and every_key.toml has each option's help {amiss or ''}", not amiss


MIXED = """
[student]
mixer = "wuneng"
layer_mixers = {layers}
init_from = "{teacher}"
chunk = 8
[loss]
objective = "ce"
[data]
paths = ["{text}"]
seq_len = 16
[optimizer]
steps = 1
lr = 0
[run]
out = "{out}"
"""


def mixed_checks(root):
    """A student whose layers have different mixers: trained, converted, inspected, and started from."""
    names = ("mixed.txt", "mixed", "mixed.toml", "mixed_teacher")
    text, out, path, teacher = (os.path.join(root, name) for name in names)
    shape = ref.Config(mixer="attention", vocab_size=256, num_layers=3)
    write_model(teacher, shape, ref.init_model(shape, np.random.default_rng(1)))
    with open(text, "w") as f:
        f.write("So it goes. " * 2000)
    with open(path, "w") as f:
        f.write(MIXED.format(teacher=teacher, text=text, out=out, layers='["1:attention"]'))
    ok("train", path)
    student = os.path.join(root, "mixed_student")
    ok("convert", os.path.join(out, "checkpoints"), student)
    stored = read_safetensors(os.path.join(student, "model.safetensors"))
    states = {n.split(".")[2] for n in stored if ".state." in n}
    yield "single layers have another mixer", states == {"0", "2"}
    yield ("a student of mixed layers starts with its teacher's function",
           distance(logits(student, root), logits(teacher, root)) <= 1e-6)
    shown = ok("inspect", "--no-tensors", student)
    yield ("inspect names each mixer's layers",
           "mixer wuneng" in shown and "layers 0, 2\n" in shown and "layers 1\n" in shown)
    yield "and counts their parameters", f"parameters {sum(v.size for v in stored.values())}\n" in shown
    only_config = os.path.join(root, "only_config")
    os.mkdir(only_config)
    shutil.copy(os.path.join(student, "config.json"), only_config)
    listed = ok("inspect", only_config)
    yield ("a config.json alone shows the same",
           shown.split("\n", 1)[1] in listed and all(n in listed for n in stored))
    done = wuneng("train", path, "run.resume=none", 'student.layer_mixers=["0-3:attention"]')
    yield ("a layer that is not there is named with its mixer",
           "layer 3 with mixer attention: expected a layer from 0 to 2" in done.stderr)
    done = wuneng("train", path, f"student.init_from={student}", f"run.out={root}/again",
                  "student.layer_mixers=[]")
    yield "mixers may change where they can start from the source's", done.returncode == 0
    done = wuneng("train", path, f"student.init_from={student}", f"run.out={root}/back",
                  'student.layer_mixers=["0-1:attention"]')
    yield ("and are refused by layer elsewhere",
           "layer 0: mixer attention cannot start from mixer wuneng" in done.stderr)


def token_checks(root):
    """tokenize, training on what it writes, generate and convert with a tokenizer."""
    tokenizer = os.path.join(GOLDEN, "tokenizer")
    help_text = ok("tokenize", "--help")
    yield ("tokenize --help shows an example and every form of record",
           all(w in help_text for w in ("wuneng tokenize", "conversations", "rejected", "--bad-lines")))
    chats = [{"messages": [{"role": "user", "content": f"What is {i}?"},
                           {"role": "assistant", "content": "It is a number. " * (1 + i % 3)}]}
             for i in range(60)]
    lines = write_lines(os.path.join(root, "chats.jsonl"), chats[:3] + ["not JSON\n"] + chats[3:])
    out = os.path.join(root, "data", "sft")
    template = ("--chat-template", "Qwen2.5 Instruct")  # the golden tokenizer has none of its own
    done = wuneng("tokenize", lines, "--tokenizer", tokenizer, "--out", out)
    yield ("a chat without a template names the file where it was looked for",
           refused(done, "chats.jsonl line 1: a chat: ", "tokenizer_config.json"))
    done = wuneng("tokenize", lines, "--tokenizer", tokenizer, "--out", out, *template)
    yield ("a bad line stops the run and is named",
           refused(done, "chats.jsonl line 4: expected a JSON object") and not os.path.exists(out + ".idx"))
    done = wuneng("tokenize", lines, "--tokenizer", tokenizer, "--out", out, "--bad-lines", "skip", *template)
    yield ("or is counted and told",
           done.returncode == 0 and "skipped 1 bad lines" in done.stderr
           and "chats.jsonl line 4" in done.stderr and "60 documents" in done.stdout)
    done = wuneng("tokenize", lines, "--tokenizer", tokenizer, "--out", out, *template,
                  "--date-string", "today")
    yield ("an option that the chat template does not have is refused",
           refused(done, "chat option date_string: expected none"))
    yield ("labels lie beside the tokens",
           all(os.path.exists(out + e) for e in (".bin", ".idx", "_mask.bin", "_mask.idx", ".json")))
    pairs = write_lines(os.path.join(root, "pairs.jsonl"),
                        [{"prompt": "q", "chosen": "good", "rejected": "bad"}] * 3)
    ok("tokenize", pairs, "--tokenizer", "bytes", "--out", os.path.join(root, "data", "dpo"))
    yield ("pairs are two token files",
           all(os.path.exists(os.path.join(root, "data", f"dpo_{name}.idx"))
               for name in ("chosen", "rejected", "chosen_mask", "rejected_mask")))
    done = wuneng("tokenize", pairs, "--tokenizer", root, "--out", out)
    yield ("a directory without a tokenizer is one clear error",
           refused(done, "expected tokenizer.json or vocab.json"))

    vocab = json.load(open(out + ".json"))["vocab_size"]
    recipe, run = os.path.join(root, "tokens.toml"), os.path.join(root, "run")
    with open(recipe, "w") as f:
        f.write(RECIPE.format(vocab=vocab + 3, paths=json.dumps([out]), out=run))
    said = ok("train", recipe)
    held_out = [x for x in map(json.loads, open(os.path.join(run, "metrics.jsonl"))) if "held_out_ce" in x]
    yield ("training on tokens tells how they pack and evaluates on held-out ones",
           "packing efficiency" in said and held_out[-1]["held_out_ce"] < held_out[0]["held_out_ce"]
           and held_out[0]["held_out_tokens"] > 0)
    done = wuneng("train", recipe, "run.device=cpu", "run.activations=bf16", "run.resume=none")
    yield ("bf16 activations on the CPU are refused before any work",
           refused(done, 'run.activations = "bf16" with run.device = "cpu"'))
    done = wuneng("train", recipe, f"student.vocab_size={vocab - 1}", "run.resume=none")
    yield ("tokens of a larger tokenizer are refused before any work",
           refused(done, f"at most {vocab - 1} ids", f"found {vocab}", "data.paths"))
    model = os.path.join(root, "tokens_model")
    ok("convert", run + "/checkpoints", model, "--tokenizer", tokenizer)
    yield ("convert puts the tokenizer beside the model",
           all(os.path.exists(os.path.join(model, name))
               for name in ("tokenizer.json", "tokenizer_config.json")))
    written = ok("generate", model, "--prompt", "What is 3?", "--tokens", "12", "--temperature", "0")
    yield "generate continues text with the model's tokenizer", written.startswith("What is 3?")
    done = wuneng("generate", model, "--prompt", "a", "--enable-thinking", "false")
    yield "options of a chat template without a chat are refused", refused(done, "with --chat alone")
    yield ("generate answers a chat without repeating it",
           "What is 3?" not in ok("generate", model, "--chat", *template, "--prompt", "What is 3?",
                                  "--tokens", "12", "--temperature", "0"))
    def answers(*prompts):
        lines = os.path.join(root, "prompts.txt")
        with open(lines, "w") as f:
            f.write("\n".join(prompts) + "\n")
        printed = ok("generate", model, "--prompts", lines, "--tokens", "9", "--top-k", "5", "--seed", "4",
                     "--max-sequences", "2")
        return [json.loads(line) for line in printed.splitlines()]
    prompts = ["What is 3?", "Two", "and a longer line of text"]
    several = answers(*prompts)
    yield ("generate continues several prompts as it does each alone",
           [a["prompt"] for a in several] == prompts and several == [answers(p)[0] for p in prompts])
    stop = several[0]["text"][3:6]
    stopped = ok("generate", model, "--prompt", prompts[0], "--tokens", "9", "--top-k", "5", "--seed", "4",
                 "--stop", "not there", "--stop", stop)
    yield ("generate ends before a stop string",
           stopped == prompts[0] + several[0]["text"][:several[0]["text"].index(stop)] + "\n")
    done = wuneng("generate", run + "/checkpoints", "--prompt", "x")
    yield "generate without a tokenizer says where one is expected", refused(done, "use --tokenizer")


if __name__ == "__main__":
    sys.exit(run(checks, recipe_checks, mixed_checks, token_checks))

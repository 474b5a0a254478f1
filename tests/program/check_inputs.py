#!/usr/bin/env python3
"""What people have and type: exports over something older, files that go with a model, mistakes in recipes
and arguments, and launchers that start a command without MPI.

usage: check_inputs.py WUNENG
"""
import ast
import filecmp
import json
import os
import shutil
import subprocess
import sys

import numpy as np
from commands import GOLDEN, HERE, PROGRAM, ok, refused, run, wuneng

import ranks
import wuneng_reference as ref
from model_files import write_model

TIED, UNTIED = (os.path.join(GOLDEN, name) for name in ("qwen2_tied", "qwen2_untied"))
TOKENIZER = os.path.join(GOLDEN, "tokenizer")


def put(path, content=""):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(content if isinstance(content, str) else json.dumps(content))
    return path


def read_json(*path):
    with open(os.path.join(*path)) as f:
        return json.load(f)


def one_line(done):
    return len(done.stderr.splitlines()) == 1


def tree(directory):
    """Path -> content of every file below."""
    found = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as f:
                found[os.path.relpath(path, directory)] = f.read()
    return found


def model(root, name, **config):
    """An instruction model: a tokenizer, tokens that end an answer, a chat template."""
    directory = os.path.join(root, name)
    shape = ref.Config(mixer="attention", vocab_size=720)
    write_model(directory, shape, ref.init_model(shape, np.random.default_rng(1)))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(TOKENIZER, file), directory)
    put(os.path.join(directory, "generation_config.json"), {"eos_token_id": [7, 8]})
    put(os.path.join(directory, "chat_template.jinja"), "{{ messages }}")
    put(os.path.join(directory, "config.json"),
        read_json(directory, "config.json") | {"eos_token_id": 7, "bos_token_id": 9, "pad_token_id": 8,
                                               "max_position_embeddings": 131072} | config)
    return directory


def export_checks(root):
    source = model(root, "instruct")
    fresh = os.path.join(root, "fresh")
    ok("convert", source, fresh)
    kept = ("generation_config.json", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json")
    yield ("an export has the files that go with the model",
           sorted(os.listdir(fresh)) == sorted(("config.json", "model.safetensors") + kept)
           and filecmp.cmpfiles(source, fresh, kept, shallow=False)[0] == list(kept))
    keys = ("eos_token_id", "bos_token_id", "pad_token_id", "max_position_embeddings")
    config = read_json(source, "config.json")
    yield ("and its config.json keeps tokens and length",
           all(read_json(fresh, "config.json")[key] == config[key] for key in keys))
    student = os.path.join(root, "student")
    ok("convert", source, student, "--preset", "full")
    yield ("a student's too", all(read_json(student, "config.json")[key] == config[key] for key in keys)
           and os.path.exists(os.path.join(student, "generation_config.json")))

    text, tokens = put(os.path.join(root, "text.txt"), "So it goes. " * 400), os.path.join(root, "tokens")
    ok("tokenize", text, "--tokenizer", source, "--out", tokens)
    recipe = put(os.path.join(root, "from.toml"), f"""
[student]
mixer = "attention"
init_from = "{source}"
[loss]
objective = "ce"
[data]
paths = ["{tokens}"]
held_out_every = 0
seq_len = 16
[optimizer]
steps = 1
""")
    ok("train", recipe, f"run.out={root}/run", "run.device=cpu")
    yield ("text taken as bytes is refused where the student has a tokenizer",
           refused(wuneng("train", recipe, f"run.out={root}/bytes", f'data.paths=["{text}"]'),
                   "expected tokens of the student's tokenizer", "found tokens of tokenizer bytes"))
    trained = os.path.join(root, "trained")
    ok("convert", os.path.join(root, "run", "checkpoints"), trained)
    yield ("and a trained one's", all(read_json(trained, "config.json")[key] == config[key] for key in keys)
           and set(kept) <= set(os.listdir(trained)))
    done = wuneng("convert", os.path.join(root, "run", "checkpoints"), f"{root}/run/checkpoints/model")
    yield "nothing is written into checkpoints", refused(done, "expected a directory outside of checkpoints")


def older_output_checks(root):
    """Directories to write that hold something."""
    source, out = model(root, "source"), os.path.join(root, "older")
    fresh = os.path.join(root, "fresh_source")
    ok("convert", source, fresh)
    ok("convert", UNTIED, out, "--max-file-bytes", "20000")
    put(os.path.join(out, "special_tokens_map.json"), "{}")
    put(os.path.join(out, "README.md"), "mine")
    ok("convert", source, out)
    yield ("an older model is replaced as a whole, other files stay",
           tree(out) == tree(fresh) | {"README.md": b"mine"})
    for name in os.listdir(out):
        os.chmod(os.path.join(out, name), 0o444)
    ok("convert", TIED, out)
    yield ("also where its files are read-only",
           sorted(tree(out)) == ["README.md", "config.json", "model.safetensors"])

    os.makedirs(os.path.join(out, ".wuneng.partial"))  # of an export that was killed
    put(os.path.join(out, ".wuneng.partial", "model-00001-of-00009.safetensors"), "half")
    os.remove(os.path.join(out, "config.json"))
    ok("convert", source, out)
    yield "an export that was killed is made anew", tree(out) == tree(fresh) | {"README.md": b"mine"}

    refusals = [
        ("pytorch_model.bin", "", "is not part of"), ("adapter_model.safetensors", "", "is not part of"),
        ("other.safetensors", "", "is not part of"), ("model.gguf", "", "is not part of"),
        ("vocab.json", "{}", "there is no config.json beside it"),
        ("config.json/x", "", "found a directory")]
    for name, content, expected in refusals:
        used = os.path.join(root, "used_" + name.split("/")[0])
        put(os.path.join(used, name), content)
        before = tree(used)
        done = wuneng("convert", source, used)
        yield f"beside {name} nothing is written", refused(done, expected) and tree(used) == before
    before = tree(source)
    for name, to, expected in (("a file", put(os.path.join(root, "file")), "found a file"),
                               ("below a file", os.path.join(root, "file", "x"), "cannot be written to"),
                               ("its own input", source + "/", "expected another directory")):
        done = wuneng("convert", source, to)
        yield f"an output that is {name} is refused", refused(done, expected) and one_line(done)
    yield "and the input is as it was", tree(source) == before
    done = wuneng("convert", os.path.join(root, "nowhere"), os.path.join(root, "made"))
    yield "a wrong input makes no output", refused(done, "nowhere") and "made" not in os.listdir(root)
    broken = model(root, "broken", num_hidden_layers=3)
    done = wuneng("convert", broken, os.path.join(root, "made"))
    yield "nor does a broken one", refused(done, "num_hidden_layers = 3") and "made" not in os.listdir(root)


def transformers_checks(root):
    """The Python files with which transformers loads a student (tests/real/check_export.py loads it)."""
    folder = os.path.join(HERE, "..", "..", "model", "export")
    files = {name: content for name, content in tree(folder).items() if name.endswith(".py")}
    trees = {}
    for name, content in files.items():
        trees[name] = ast.parse(content)
        compile(content, name, "exec")
    classes = {name[:-3]: {node.name for node in module.body if isinstance(node, ast.ClassDef)}
               for name, module in trees.items()}
    imported = {node.module + ".py" for module in trees.values() for node in ast.walk(module)
                if isinstance(node, ast.ImportFrom) and node.level == 1}
    yield "the Python files of an export import each other alone", imported < set(files)
    kinds = {"wuneng": {}, "rwkv7": {"mixer": "rwkv7"}, "mixed": {"layer_mixers": ((0, "attention"),)}}
    for kind, option in kinds.items():
        source, out = os.path.join(root, kind + "_raw"), os.path.join(root, kind)
        shape = ref.Config(**option)
        write_model(source, shape, ref.init_model(shape, np.random.default_rng(1)))
        ok("convert", source, out)
        written = {name: content for name, content in tree(out).items() if name.endswith(".py")}
        yield f"a {kind} model has them as they are in the repository", written == files
        named = [value.split(".") for value in read_json(out, "config.json")["auto_map"].values()]
        yield (f"and its config.json names classes in them ({named})",
               len(named) == 2 and all(name in classes[module] for module, name in named))
    ok("convert", TIED, out)
    yield ("a model of attention alone replaces them by nothing",
           not any(name.endswith(".py") for name in tree(out))
           and "auto_map" not in read_json(out, "config.json"))


def argument_checks(root):
    source, out = model(root, "arguments"), os.path.join(root, "l.h5")
    generate, convert = ("generate", source, "--prompt", "x"), ("convert", source, out)

    def logits(tokens, to=out):
        file = put(os.path.join(root, f"tokens_{len(os.listdir(root))}"), tokens)
        return ("logits", source, "--tokens", file, "--out", to)
    for name, arguments, expected in (
            ("a negative number of tokens", (*generate, "--tokens", "-1"), "--tokens"),
            ("a number of 20 digits", (*generate, "--tokens", "9" * 20), "--tokens"),
            ("a negative temperature", (*generate, "--temperature", "-0.1"), "--temperature"),
            ("a temperature of nan", (*generate, "--temperature", "nan"), "--temperature"),
            ("an empty prompt", ("generate", source, "--prompt", ""), "--prompt"),
            ("a negative file size", (*convert, "--max-file-bytes", "-1"), "--max-file-bytes"),
            ("an unknown preset", (*convert, "--preset", "fulll"), "fulll"),
            ("an unknown option", (*convert, "--token", "x"), "--token"),
            ("an unknown command", ("trian", "x"), "command trian: did you mean train?"),
            ("a seed of 21 digits", (*generate, "--seed", "9" * 21), "--seed"),
            ("an output in no directory", logits("1 2 3", f"{root}/no/l.h5"), "no directory"),
            ("an output that is a directory", logits("1 2 3", root), "found a directory"),
            ("a token beyond the vocabulary", logits("1 99999"), "token 1: expected an id"),
            ("a token of 20 digits", logits("1 " + "9" * 20), "found '9"),
            ("a token that is none", logits([1, 2.5]), "tokens 1: expected a whole number")):
        done = wuneng(*arguments)
        yield (f"{name} is one line", refused(done, expected) and one_line(done)
               and not os.path.exists(out))
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            done = subprocess.run([PROGRAM, "inspect", source], stdout=full, stderr=subprocess.PIPE,
                                  text=True)
        yield "what stdout does not take is an error", refused(done, "stdout")


def launcher_checks(root):
    """What mpirun starts."""
    text, x, y = put(os.path.join(root, "hi.txt"), "hi"), os.path.join(root, "x"), os.path.join(root, "y")
    tokenize = f"'{PROGRAM}' tokenize '{text}' --tokenizer bytes --out"

    def mpirun(count, *program):
        return subprocess.run(["mpirun", "-n", str(count), *program], env=ranks.environment(),
                              capture_output=True, text=True, timeout=120)
    done = mpirun(1, "bash", "-c", f"{tokenize} '{x}' && {tokenize} '{y}'")
    yield "one process may call two commands", done.returncode == 0 and os.path.exists(y + ".idx")
    for name, arguments, expected in (
            ("a missing recipe", ("train", os.path.join(root, "none.toml")), "none.toml"),
            ("an unknown option", ("train", "x.toml", "--fast"), "--fast"),
            ("a missing argument", ("train",), "recipe")):
        done = mpirun(2, PROGRAM, *arguments)
        ours = [line for line in done.stderr.splitlines() if "wuneng: error" in line]
        yield (f"{name} is one line of one rank",
               done.returncode != 0 and len(ours) == 1 and expected in ours[0]
               and "MPI_ABORT" not in done.stderr and "finalize" not in done.stderr)


if __name__ == "__main__":
    sys.exit(run(export_checks, older_output_checks, transformers_checks, argument_checks, launcher_checks))

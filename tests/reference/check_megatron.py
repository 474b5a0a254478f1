#!/usr/bin/env python3
"""Token files against Megatron's own reader and writer (PyPI's megatron-core): what either side writes the
other reads, in every type.

usage: check_megatron.py TOKEN_FILE_PROBE WUNENG [DIRECTORY THAT HOLDS megatron/core]

Ends with status 77 (skipped) where megatron-core, torch or numpy is not here. Of megatron-core the file that
reads and writes is loaded, as it is, without the rest of the package, which wants a GPU's libraries.
"""
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import types

SKIPPED = 77


def load_megatron(directory):
    if directory:
        sys.path.insert(0, directory)
    spec = importlib.util.find_spec("megatron")
    if spec is None:
        raise ImportError("megatron is not installed", name="megatron.core")
    roots = [os.path.join(path, "core") for path in spec.submodule_search_locations]
    for name, paths in (("megatron.core", roots),
                        ("megatron.core.datasets", [os.path.join(r, "datasets") for r in roots])):
        package = types.ModuleType(name)
        package.__path__ = paths
        sys.modules[name] = package
    utils = types.ModuleType("megatron.core.utils")  # a logger that knows ranks is all that is used of it
    utils.log_single_rank = lambda *arguments, **named: None
    sys.modules[utils.__name__] = utils
    from megatron.core.datasets import indexed_dataset
    return indexed_dataset


def run(*command, text=""):
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def documents_of(megatron, prefix, mmap):
    data = megatron.IndexedDataset(prefix, mmap=mmap)
    bounds = data.document_indices
    return [[int(t) for s in range(a, b) for t in data[s]] for a, b in zip(bounds[:-1], bounds[1:])]


def checks(megatron, probe, wuneng, root):
    import numpy as np
    import torch
    rng = np.random.default_rng(1)
    for name, dtype, most in (("u8", np.uint8, 255), ("i8", np.int8, 127), ("i16", np.int16, 32767),
                              ("u16", np.uint16, 65535), ("i32", np.int32, 2**31 - 1),
                              ("i64", np.int64, 2**31 - 1)):
        documents = [[int(t) for t in rng.integers(0, most, int(rng.integers(0, 50)), endpoint=True)]
                     for _ in range(100)]
        lines = "".join(" ".join(map(str, d)) + "\n" for d in documents)
        ours, theirs = os.path.join(root, "ours_" + name), os.path.join(root, "theirs_" + name)
        run(probe, "write", ours, name, text=lines)
        for mmap in (True, False):
            how = "" if mmap else " (without mmap)"
            read = documents_of(megatron, ours, mmap)
            yield f"{name}: Megatron reads what we write{how}", read == documents
        builder = megatron.IndexedDatasetBuilder(theirs + ".bin", dtype=dtype)
        for i, document in enumerate(documents):
            cut = len(document) // 2  # every third document in two sequences
            builder.add_document(torch.tensor(document, dtype=torch.int64),
                                 [cut, len(document) - cut] if i % 3 == 0 else [len(document)])
        builder.finalize(theirs + ".idx")
        yield f"{name}: we read what Megatron writes", run(probe, "read", theirs) == lines
        plain = megatron.IndexedDatasetBuilder(theirs + "_plain.bin", dtype=dtype)
        for document in documents:
            plain.add_document(torch.tensor(document, dtype=torch.int64), [len(document)])
        plain.finalize(theirs + "_plain.idx")
        same = all(open(ours + e, "rb").read() == open(theirs + "_plain" + e, "rb").read()
                   for e in (".bin", ".idx"))
        yield f"{name}: the files are equal byte by byte", same
    texts = ["abc", "Grüße", "", "x" * 1000]
    lines = os.path.join(root, "in.jsonl")
    with open(lines, "w") as f:
        f.write("".join(json.dumps({"prompt": t, "completion": "y"}) + "\n" for t in texts))
    out = os.path.join(root, "out")
    run(wuneng, "tokenize", lines, "--tokenizer", "bytes", "--out", out)
    tokens, labels = (documents_of(megatron, out + end, True) for end in ("", "_mask"))
    yield "wuneng tokenize: tokens", tokens == [list((t + "y").encode()) for t in texts]
    yield "wuneng tokenize: labels", labels == [[0] * len(t.encode()) + [1] for t in texts]


def main():
    try:
        megatron = load_megatron(sys.argv[3] if len(sys.argv) > 3 else "")
    except ImportError as e:
        print(f"skipped: {sys.executable} has no {e.name}; pip download --no-deps megatron-core, unpack it, "
              "and cmake -DMEGATRON_PATH=ITS_DIRECTORY")
        return SKIPPED
    passed = failed = 0
    with tempfile.TemporaryDirectory() as root:
        for name, good in checks(megatron, os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2]), root):
            print(("ok     " if good else "FAILED ") + name)
            passed, failed = passed + good, failed + (not good)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())

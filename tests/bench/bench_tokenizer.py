#!/usr/bin/env python3
"""Tokens a second on one core against PyPI's `tokenizers`, in turn, in one run, on Qwen2.5's real vocabulary.

English is tinyshakespeare, code is this checkout's, random is tokenizer_cases.py's texts of all scripts
(nearly every word is new: the worst case for a cache). Pieces: the whole file as one text, or so many lines
each as a corpus of documents is. PyPI's time is the best of encode_batch and encode_batch_fast (which leaves
out offsets). "Cold" is the first pass, with empty caches. Seconds are of the processor, not of the clock, so
that other programs on the machine take no time from either; the least of ROUNDS is told, and the ratio's
range when each round is taken by itself.

usage: bench_tokenizer.py BENCH_TOKENIZER [ROUNDS]   with a python that has tokenizers, and ../shared/data
"""
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time

os.environ.update(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "reference"))
import tokenizer_cases as cases  # noqa: E402
import tokenizer_reference as reference  # noqa: E402
import tokenizers  # noqa: E402

CHECKOUT = os.path.dirname(os.path.dirname(HERE))


def code():
    for folder in ("data", "kernels", "launch", "model", "parallel", "runtime", "tests/unit",
                   "tests/reference"):
        for name in sorted(os.listdir(os.path.join(CHECKOUT, folder))):
            if name.endswith((".cpp", ".h", ".py")):
                with open(os.path.join(CHECKOUT, folder, name)) as f:
                    yield f.read()


def pieces(text, lines):
    if lines == 0:
        return [text]
    split = text.split("\n")
    ends = [line + "\n" for line in split[:-1]] + ([split[-1]] if split[-1] else [])
    return ["".join(ends[i:i + lines]) for i in range(0, len(ends), lines)]


def peer(encode, texts):
    """Seconds of one pass, and the number of ids."""
    begin = time.process_time()
    encodings = encode(texts, add_special_tokens=False)
    seconds = time.process_time() - begin
    return seconds, sum(len(e) for e in encodings)


def main():
    binary, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with open(os.path.join(os.path.dirname(reference.REAL), "text", "tinyshakespeare.txt")) as f:
        english = f.read()
    mixed = "\n".join(t.decode(errors="replace").replace("\r", " ")
                      for t in cases.texts(12000, ["<|im_end|>"], seed=21))
    print(f"tokenizers {tokenizers.__version__}; million tokens a second on one core")
    with tempfile.TemporaryDirectory() as directory:
        sources = (("English", english), ("code", "".join(code())), ("random", mixed))
        for (name, text), lines in itertools.product(sources, (0, 20)):
            path = os.path.join(directory, "text")
            with open(path, "w", newline="") as f:
                f.write(text)
            texts, mine, theirs, cold, their_cold, ratios = pieces(text, lines), 1e30, 1e30, 1e30, 1e30, []
            for _ in range(rounds):
                out = json.loads(subprocess.run([binary, reference.REAL, path, str(lines)], text=True,
                                                capture_output=True, check=True).stdout)
                ours = out["warm_s"]
                mine, cold = min(mine, out["warm_s"]), min(cold, out["cold_s"])
                tokenizer = reference.load(reference.REAL)
                first, count = peer(tokenizer.encode_batch_fast, texts)
                encoders = (tokenizer.encode_batch, tokenizer.encode_batch_fast)
                passes = [peer(encode, texts)[0] for encode in encoders for _ in range(2)] + [first]
                theirs, their_cold = min(theirs, *passes), min(their_cold, first)
                ratios.append(min(passes) / ours)
                assert count == out["tokens"], (name, lines, count, out)
            rate = [count / s / 1e6 for s in (mine, theirs, cold, their_cold)]
            how = "one text" if lines == 0 else f"{lines} lines each"
            print(f"{name}, {how}, {len(text.encode()) / 1e6:.2f} MB, {count} tokens: "
                  f"wuneng {rate[0]:.2f}, PyPI {rate[1]:.2f}, "
                  f"ratio {rate[0] / rate[1]:.1f} ({min(ratios):.1f} to {max(ratios):.1f}); "
                  f"cold {rate[2]:.2f}, {rate[3]:.2f}, ratio {rate[2] / rate[3]:.1f}", flush=True)


if __name__ == "__main__":
    main()

"""The cache of the teacher's signals: a run from it is the run that filled it, to the bit under its layout
and within rounding under others; and what is refused."""
import os
import re
import shutil
import subprocess

import parity
import ranks
import results
from runs import ONE, Layout, token_sources

HIDDEN, INT8 = {"teacher.signal": "hidden"}, {"teacher.stream_dtype": "int8"}
TOP_K = {"teacher.signal": "top_k", "teacher.top_k": 10}
# name; settings; how many signals; the layouts of the run that fills the cache (student, teacher where it
# streams); the student's of runs from the cache. A sum over three of a teacher's ranks is rounded by a row's
# place in the micro-batch, which another epoch changes: it would be equal within rounding alone.
CASES = [
    ("hidden state", HIDDEN, 1, Layout(tp=2, pp=2), Layout(tp=2), [ONE, Layout(dp=2), Layout(dp=2, tp=2)]),
    ("top-k of a colocated teacher", TOP_K, 2, Layout(dp=2), None, [Layout(tp=2, pp=2)]),
    ("alignment, 8-bit rows", parity.ALIGN | INT8, 6, Layout(pp=2), Layout(pp=2), [Layout(pp=3, tp=2)]),
]
TAKEN = 104  # sequences: of 10 steps, and of 3 evaluations
ADDED = re.compile(r"(\d+) records added to \S+ \([^)]*\), (\d+) were there, (\d+) were damaged")


def fills(runs, path):
    return {"teacher.cache": path, "run.resume": "none"}


def uses(runs, path):
    return fills(runs, path) | {"teacher.mode": "cached"}


def added(printed):
    """Records added, found whole, and damaged and written again."""
    return tuple(map(int, ADDED.search(printed).groups()))


def files(path, ending):
    return sorted(os.path.join(path, name) for name in os.listdir(path) if name.endswith(ending))


def check(runs, tally):
    data = token_sources(runs.root)  # of fewer sequences than a run takes
    for number, (name, settings, signals, student, teacher, layouts) in enumerate(CASES):
        path, settings = runs.out(f"cache{number}"), settings | data
        filled = runs.run("filled", student, teacher, settings | fills(runs, path))
        records = added(runs.printed)[0]
        good = 0 < records < TAKEN * signals and records % signals == 0
        tally.check(f"cache, {name}: more than an epoch, each sequence once", not good, f"{records} records")
        again = runs.run("cached", student, None, settings | uses(runs, path))
        tally.check(f"cache, {name}: without the teacher equal to the bit",
                    not results.identical(filled, again, runs.steps))
        for layout in layouts:
            other = runs.run("cached", layout, None, settings | uses(runs, path))
            tally.check(f"cache, {name}: student {layout}", *parity.compare(filled, other, runs.steps))
    check_refusals(runs, tally, HIDDEN | data, runs.out("cache0"))
    check_damage(runs, tally, HIDDEN | data, runs.out("cache0"))
    check_bound(runs, tally, HIDDEN | data)
    check_two_runs(runs, tally, HIDDEN | data)


def check_refusals(runs, tally, settings, path):
    def refused(name, wanted, changed, student=ONE):
        code, printed = runs.attempt("refused", student, None, settings | uses(runs, path) | changed)
        good = code and wanted in printed and printed.count("wuneng: error") == 1
        metrics = os.path.join(runs.out("refused"), "metrics.jsonl")
        good = good and (not os.path.exists(metrics) or not results.losses(runs.out("refused")).size)
        tally.check(f"cache: {name} is refused", [] if good else [f"exit {code}", printed])

    other = shutil.copytree(runs.teacher, os.path.join(runs.root, "another_teacher"))
    with open(os.path.join(other, "model.safetensors"), "r+b") as f:  # the first tensor's first number
        f.seek(8 + int.from_bytes(f.read(8), "little"))
        f.write(b"\0\0\0\0")
    refused("another teacher", "expected the fingerprint of the model at teacher.path",
            {"teacher.path": other})
    refused("another signal", 'expected as many signals as the objective needs, "2", found "1"', TOP_K)
    refused("another type", 'expected a signal (teacher.signal, teacher.stream_dtype, teacher.layer_map), '
            '"hidden, 32 x bf16", found "hidden, 32 x f32"', {"teacher.stream_dtype": "bf16"})
    refused("logits", 'use teacher.signal = "hidden"', {"teacher.signal": "logits"})
    refused("no cache", "expected a cache, found no", {"teacher.cache": runs.out("nowhere")})
    refused("text as bytes", "tokens of the recipe's tokenizer",
            {"data.sources": None, "data.packing": None, "data.paths": [runs.text]})
    os.makedirs(runs.out("other_data"))
    refused("other data", f"{TAKEN} of the {TAKEN} sequences of its passes are not in",
            token_sources(runs.out("other_data"), range(2, 30)))
    refused("data of another length", "replica 0, stage 0", {"data.seq_len": 20}, Layout(dp=2))


def check_damage(runs, tally, settings, path):
    runs.run("again", ONE, ONE, settings | fills(runs, path))
    records, whole, damaged = added(runs.printed)
    tally.check("cache: a second run adds nothing", [runs.printed] if records or damaged or not whole else [])
    once = runs.run("once", ONE, None, settings | uses(runs, path))
    name = files(path, ".values")[0]
    with open(name, "r+b") as f:
        first = f.read(1)[0]
        f.seek(0)
        f.write(bytes([first ^ 1]))
    code, printed = runs.attempt("cached", ONE, None, settings | uses(runs, path))
    said = (f"{name}: record at byte 0: expected checksum", "sequence ")
    tally.check("cache: a damaged record is an error", [] if code and all(t in printed for t in said)
                else [f"exit {code}", printed])
    runs.run("repairs", Layout(dp=2), Layout(tp=2), settings | fills(runs, path))
    tally.check("cache: and a run with the teacher writes it again",
                [runs.printed] if added(runs.printed)[2] < 1 else [])
    again = runs.run("cached", ONE, None, settings | uses(runs, path))
    tally.check("cache: repaired, it is equal to the bit", not results.identical(once, again, runs.steps))


def check_bound(runs, tally, settings):
    path, most = runs.out("small"), 20_000
    small = {"teacher.cache_gb": most / 1e9}
    runs.run("bounded", Layout(dp=2), ONE, settings | small | fills(runs, path))
    size = sum(map(os.path.getsize, files(path, ".values") + files(path, ".index")))
    said = runs.printed.count("is full") == 1 and "has no room for the rest" in runs.printed
    tally.check("cache: it keeps its bound, and says once that it is full",
                [] if said and most / 2 < size <= most else [runs.printed], f"{size} bytes of {most}")
    code, printed = runs.attempt("cached", ONE, None, settings | small | uses(runs, path))
    tally.check("cache: a part of the sequences is refused",
                [] if code and "are not in" in printed else [printed])


def check_two_runs(runs, tally, settings):
    path = runs.out("shared")
    both = [subprocess.Popen(runs.command(f"together{i}", layout, None, settings | fills(runs, path)),
                             env=ranks.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for i, layout in enumerate((ONE, Layout(dp=2)))]
    printed = [run.communicate(timeout=300)[0].decode() for run in both]
    again = runs.run("cached", ONE, None, settings | uses(runs, path))
    tally.check("cache: two runs that fill it at the same time",
                printed if any(run.returncode for run in both)
                or not results.identical(runs.out("together0"), again, runs.steps) else [])

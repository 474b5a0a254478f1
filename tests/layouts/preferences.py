"""Preference optimisation: resumed, and with a reference whose log-probabilities are computed before."""
import os
import shutil

import parity
import results
from runs import ONE, Layout, pair_sources


def check(runs, tally):
    pairs = parity.DPO | pair_sources(runs.root)
    once = runs.run("dpo", ONE, ONE, pairs)
    results.rewind(once, runs.out("resumed"), runs.steps // 2)
    resumed = runs.run("resumed", ONE, ONE, pairs)
    tally.check("preference pairs, stopped and resumed, is equal to the bit",
                not results.identical(once, resumed, runs.steps))

    path = os.path.join(runs.root, "reference.safetensors")
    from_file = pairs | {"teacher.mode": "precomputed", "teacher.precomputed": path}
    code, printed = runs.attempt("early", ONE, None, from_file)
    tally.check("a reference that is not there yet is refused", [] if code and path in printed else [printed])
    # In the order of the file labels come in other chunks: equal within rounding.
    for layout in (ONE, Layout(dp=2, tp=2), Layout(dp=3), Layout(pp=2)):
        runs.run("precomputed", ONE, None, from_file | layout.keys("teacher.layout"), layout.ranks,
                 subcommand="precompute")
        found = runs.run("from_file", ONE, None, from_file | {"run.resume": "none"})
        tally.check(f"a reference precomputed on {layout} trains as one that streams",
                    *parity.compare(once, found, runs.steps))
    both = runs.run("from_file_by_two", Layout(dp=2), None, from_file)
    tally.check("and on two replicas", *parity.compare(once, both, runs.steps))
    check_refusals(runs, tally, from_file, path)


def check_refusals(runs, tally, from_file, path):
    def refused(name, wanted, settings):
        code, printed = runs.attempt("refused", ONE, None, from_file | settings)
        good = code and wanted in printed and not os.path.exists(runs.out("refused"))
        tally.check(f"precomputed: {name} is refused", [] if good else [f"exit {code}", printed])

    refused("another split of the data", "the fingerprint of the data of source 0",
            {"data.held_out_every": 5})
    refused("another objective", "whose signal is one number a token",
            {"loss.objective": "kl", "loss.chunk_tokens": None, "data.sources": None,
             "data.paths": [runs.text]})
    other = shutil.copytree(runs.teacher, os.path.join(runs.root, "other_teacher"))
    weights = os.path.join(other, "model.safetensors")
    with open(weights, "r+b") as f:  # the first tensor's first number
        header = int.from_bytes(f.read(8), "little")
        f.seek(8 + header)
        f.write(b"\0\0\0\0")
    refused("another model", "the fingerprint of the weights of teacher.path", {"teacher.path": other})
    with open(path, "r+b") as f:
        f.seek(-3, os.SEEK_END)
        f.write(b"\1")
    refused("a damaged file", "the file is damaged", {})

#!/usr/bin/python3
"""`wuneng verify`: a small hybrid under the layouts that four ranks have room for, and what it refuses.

usage: check_verify.py WUNENG
"""
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "..", "layouts")]
from checks import run  # noqa: E402
import parity  # noqa: E402
import ranks  # noqa: E402
from runs import ONE, RECIPE, Layout, Runs  # noqa: E402

PROGRAM = os.path.abspath(sys.argv[1])
HYBRID = {"student.layers": 4, "student.layer_mixers": ["1:attention", "2:rwkv7"], "student.rwkv_head_dim": 8}
AGREE = ["the recipe's own layout", "dp 2", "pp 2", "tp 2", "dp 2 pp 2", "dp 2 tp 2", "pp 2 tp 2", "pp 4",
         "dp 4", "one rank, teacher on ranks of its own: one rank",
         "tp 2, teacher on ranks of its own: pp 2"]


def verify(runs, count, student, settings, *arguments):
    """(exit code, lines) of a recipe with this layout."""
    path = runs.command("verify", student, None, settings)[-1]
    done = subprocess.run(ranks.command(count, PROGRAM, "verify", path, *arguments), env=ranks.environment(),
                          capture_output=True, text=True, timeout=300)
    return done.returncode, (done.stdout + done.stderr).splitlines()


def agree(lines, *names):
    return all(any(line.startswith(f"ok       {name}: ") for line in lines) for name in names)


def checks(root):
    runs = Runs(PROGRAM, root, RECIPE)
    code, lines = verify(runs, 4, Layout(pp=2, tp=2, schedule="zb_h1"), HYBRID)
    print(*lines, sep="\n")
    yield "a hybrid: all layouts of four ranks agree with one", code == 0 and agree(lines, *AGREE)
    yield ("what its rwkv7 layer of three heads cannot have is left out alone",
           [line for line in lines if not line.startswith(("ok", "reference"))]
           == ["left out tp 4: tp = 4: more tensor-parallel ranks than the model's 3 heads"])
    yield "nothing is written", not os.path.exists(runs.out("verify"))

    code, lines = verify(runs, 2, ONE, parity.ALIGN)
    print(*lines, sep="\n")
    yield "attention alignment on two ranks", code == 0 and agree(lines, "dp 2", "tp 2", AGREE[-2])
    # 50 rows on three ranks: shares of 17.
    code, lines = verify(runs, 3, Layout(tp=3, sequence_parallel=True),
                         parity.SUPERVISED | {"data.seq_len": 25})
    print(*lines, sep="\n")
    yield ("shares of the rows are compared with the whole",
           code == 0 and agree(lines, "the recipe's own layout", "tp 2"))
    code, lines = verify(runs, 2, Layout(tp=4), parity.SUPERVISED)
    left_out = [line for line in lines if line.startswith("left out")]
    yield ("a recipe for more ranks: its layout is left out and said",
           code == 0 and any("it needs 4 ranks, 2 were started" in line for line in left_out))
    code, lines = verify(runs, 2, ONE, parity.SUPERVISED, "--micro-batches", "3")
    yield ("micro-batches without equal parts are refused",
           code == 1 and any("expected a multiple of 2 micro-batches" in line for line in lines))
    code, lines = verify(runs, 1, Layout(tp=2), parity.SUPERVISED)
    yield ("one rank has nothing to compare",
           code == 1 and any("mpirun -n 2 or more" in line for line in lines))


if __name__ == "__main__":
    sys.exit(run(checks))

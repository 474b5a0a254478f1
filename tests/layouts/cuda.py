"""Ranks that share a GPU, or emulated ones, against one rank on the CPU."""
import subprocess

import parity
import ranks
import results
from runs import ONE, Layout

GPU = {"run.cuda_graphs": True, "run.device": "cuda"}
NARROW = {"student.dtype": "bf16", "teacher.dtype": "bf16", "teacher.stream_dtype": "bf16"}
NARROW_LOSSES = 2e-3  # relative; the CPU's activations are f32
STEPS = 4
BOUNDS = parity.Bounds(losses=1e-5, norms=5e-3, moments=1e-3, parameters=1e-3)

# Emulated, one short run alone is guarded against host code that touches device memory: the guard is slow.
UNGUARDED = {"WUNENG_EMULATOR_GUARD": "0"}
BY_NCCL = {**UNGUARDED, "WUNENG_EMULATOR_GPU_PER_RANK": "1"}

GRAPHS = "chunk steps of 2 documents of 24 tokens run as CUDA graphs"
MESSAGES = "ranks send each other messages"
# name, student, teacher where it streams, settings, environment
PARITY = [
    ("one rank", ONE, None, {}, UNGUARDED),
    ("through the host", Layout(tp=2, pp=2), Layout(tp=2), {}, UNGUARDED),
    ("by NCCL", Layout(tp=2, pp=2), Layout(tp=2), {}, BY_NCCL),
    ("by NCCL, recomputation, timed products", Layout(tp=2), Layout(tp=2),
     {"run.recompute": True, "run.time_products": True, "run.check_replicas_every": 1},
     {**BY_NCCL, "WUNENG_EMULATOR_FASTEST_BY_RANK": "1"}),
]
# student, settings, and what differs between runs that must be equal to the bit: each kind of sum that may go
# beside computation, whether replicas share the optimizer's state, and whether chunk steps are CUDA graphs
APART, TOGETHER, WHOLE = {"run.overlap": False}, {"run.overlap": True}, {"optimizer.zero": 0}
DIRECT = {"run.cuda_graphs": False}  # GPU has it
OVERLAP = [
    ("f32", Layout(dp=2, tp=2), {}, (APART, TOGETHER, DIRECT)),
    ("bf16", Layout(dp=2, tp=2), NARROW, (APART, TOGETHER, TOGETHER, WHOLE)),
    ("bf16", Layout(dp=2, pp=2), NARROW, (APART, TOGETHER)),
]


def missing(program):
    """Why there is no GPU for these tests; empty where there is one."""
    found = subprocess.run([program, "generate", "none", "--prompt", "x", "--device", "cuda"],
                           env=ranks.environment(), capture_output=True, text=True)
    return found.stderr.strip() if "no GPU found" in found.stderr else ""


def check(runs, tally):
    runs.run("guarded", Layout(tp=2), ONE, {**GPU, "run.eval_every": 1, "optimizer.steps": 2})
    cpu = runs.run("cpu")
    for number, (name, student, teacher, settings, environment) in enumerate(PARITY):
        out = runs.run(f"gpu{number}", student, teacher, {**GPU, **settings}, environment=environment)
        tally.check(f"cuda: {name}, student {student}", *parity.compare(cpu, out, STEPS, BOUNDS))
        expected = MESSAGES if teacher else GRAPHS
        tally.check(f"cuda: {name}, what is said of CUDA graphs",
                    [] if runs.printed.count(expected) == 1 else [runs.printed])
    results.rewind(runs.out("gpu2"), runs.out("resumed"), 2)
    name, student, teacher, settings, environment = PARITY[2]
    out = runs.run("resumed", student, teacher, {**GPU, **settings}, environment=environment)
    tally.check("cuda: stopped after step 2 and resumed is equal to the bit",
                not results.identical(runs.out("gpu2"), out, STEPS))
    check_narrow(runs, tally)
    check_overlap(runs, tally)


def check_narrow(runs, tally):
    found = []
    for device, student, teacher, environment in (("cpu", ONE, ONE, UNGUARDED), ("cuda", ONE, ONE, UNGUARDED),
                                                  ("cuda", Layout(tp=2, pp=2), Layout(tp=2), BY_NCCL)):
        settings = {**NARROW, "run.device": device, "run.resume": "none"}
        found.append(results.losses(runs.run("narrow", student, teacher, settings, environment=environment)))
    for name, a, b in (("as on the CPU", *found[:2]), ("tp 2 pp 2 by NCCL", *found[1:])):
        far = results.relative(a, b)
        tally.check(f"cuda: bf16 parameters, activations and logits, {name}", not far <= NARROW_LOSSES,
                    f"losses {far:.0e}")


def check_overlap(runs, tally):
    for number, (name, student, settings, choices) in enumerate(OVERLAP):
        keys = {**GPU, **settings, "optimizer.steps": 2, "student.vocab_size": 263}
        first, *others = (runs.run(f"overlap{number}_{i}", student, None, {**keys, **choice},
                                   environment=BY_NCCL) for i, choice in enumerate(choices))
        tally.check(f"cuda: sums beside computation, shared or not, CUDA graphs, {name}, student {student}",
                    [f"{other} differs" for other in others if not results.identical(first, other, 2)])

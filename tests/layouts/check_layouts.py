#!/usr/bin/env python3
"""Runs the program under many layouts and holds each against the single-rank run; then twice the same, and stop and resume.

usage: check_layouts.py WUNENG [quick] [cuda]

cuda: a few layouts on a GPU (or emulated) against a single rank on the CPU.

Gradients are read from AdamW's first moments, m' = beta1 m + (1 - beta1) g, with clipping off. All through checkpoints' index.h5, as an h5py
user would.

AdamW divides a gradient by its own size: an element whose gradient is near zero moves by a full step in a direction that rounding decides. On
three layers of random text parameters stay within 1e-4 over ten steps all the same. On five layers of real text rounding alone moves them
further (a single rank with other micro-batches shows by how much), so there each step's gradient is compared from the same state.
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import h5py
import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference"))
import wuneng_reference as ref  # noqa: E402
from model_files import write_model  # noqa: E402

STEPS = 10
MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "self,vader",
       "OMPI_MCA_btl_vader_single_copy_mechanism": "none", "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_mpi_yield_when_idle": "1",
       "WUNENG_HANG_TIMEOUT": "60", "WUNENG_CHECK_COLLECTIVES": "1", "WUNENG_THREADS": "1", "HDF5_USE_FILE_LOCKING": "FALSE"}

RECIPE = """
[student]
mixer = "wuneng"
preset = "full"
hidden_size = 24
intermediate_size = 34
layers = 3
heads = 6
kv_heads = 2
head_dim = 8
vocab_size = 259
rope_theta = 10000.0
chunk = 8
decay_rank = 4
rate_rank = 4
[teacher]
path = "{teacher}"
[loss]
temperature = 1.5
ce_weight = 0.25
chunk_tokens = 20
[data]
paths = ["{text}"]
held_out_every = 4
seq_len = 24
micro_batch = 2
[optimizer]
lr = 1e-3
warmup = 2
steps = 10
clip = 0
[run]
out = "{out}"
eval_every = 5
eval_batches = 4
checkpoint_every = 1
keep = 0
log_every = 100
"""

# Global batch: dp x accumulation = 4 micro-batches in every layout.
LAYOUTS = [(dp, tp, pp) for dp in (1, 2, 4) for tp in (1, 2, 3, 4) for pp in (1, 2, 3, 4) if dp * tp * pp <= 4 and pp <= 3]
TEACHERS = [(1, 1, 1), (1, 2, 1), (2, 1, 1), (1, 1, 2), (1, 3, 1)]  # dp, tp, pp


class Bench:
    def __init__(self, program, root):
        self.program, self.root = program, root
        rng = np.random.default_rng(3)
        self.text = os.path.join(root, "text.txt")
        with open(self.text, "wb") as f:
            f.write(bytes(rng.integers(32, 127, 40000, dtype=np.uint8)))
        # A teacher of another shape and a larger vocabulary than the student's, which is not a multiple of any tp.
        c = ref.Config(mixer="qwen2", vocab_size=263, hidden_size=32, num_heads=4, num_kv_heads=2)
        self.teacher = os.path.join(root, "teacher")
        write_model(self.teacher, c, ref.init_model(c, rng))

    def command(self, name, student=(1, 1, 1), teacher=None, overrides=(), recipe=RECIPE, ranks=None):
        out = os.path.join(self.root, name)
        path = os.path.join(self.root, name + ".toml")
        with open(path, "w") as f:
            f.write(recipe.format(teacher=self.teacher, text=self.text, out=out))
        dp, tp, pp = student
        keys = [f"optimizer.steps={STEPS}", f"layout.dp={dp}", f"layout.tp={tp}", f"layout.pp={pp}", f"data.accumulation={4 // dp}"]
        n = dp * tp * pp
        if teacher:
            keys += [f"teacher.layout.dp={teacher[0]}", f"teacher.layout.tp={teacher[1]}", f"teacher.layout.pp={teacher[2]}"]
            n += teacher[0] * teacher[1] * teacher[2]
        else:
            keys.append("teacher.mode=in_process")
        return out, ["mpirun", "--bind-to", "none", "-n", str(ranks or n), self.program, "train", path] + keys + list(overrides)

    def run(self, name, *arguments, ranks=None, **named):
        out, command = self.command(name, *arguments, ranks=ranks, **named)
        done = subprocess.run(command, env={**os.environ, **MPI}, capture_output=True, text=True, timeout=300)
        self.output = done.stdout + done.stderr
        if done.returncode != 0 and ranks is None:
            raise RuntimeError(f"{name}: exit {done.returncode}\n{' '.join(command)}\n{self.output}")
        return out


    def kill(self, name, step, *arguments):
        """Starts a run and kills its processes (SIGKILL) a moment after it has saved `step`."""
        out, command = self.command(name, *arguments)
        run = subprocess.Popen(command, env={**os.environ, **MPI}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        latest = os.path.join(out, "checkpoints", "latest")
        while not (os.path.exists(latest) and int(open(latest).read().strip()[-8:]) >= step):
            if run.poll() is not None:
                raise RuntimeError(f"{name}: ended before step {step}")
            time.sleep(0.002)
        for pid in [*children(run.pid), run.pid]:  # the ranks are in process groups of their own
            os.kill(pid, signal.SIGKILL)
        run.wait()


def children(parent):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as f:
                if int(f.read().rsplit(")", 1)[1].split()[1]) == parent:
                    found.append(int(pid))
        except OSError:
            pass  # it ended meanwhile
    return found


def losses(out):
    with open(os.path.join(out, "metrics.jsonl")) as f:
        lines = [json.loads(line) for line in f]
    return (np.array([x["loss"] for x in lines if "loss" in x]),
            np.array([[x["held_out_kl"], x["held_out_ce"]] for x in lines if "held_out_ce" in x]))


def tensors(out, step):
    found = {}
    with h5py.File(os.path.join(out, "checkpoints", f"step_{step:08}", "index.h5"), "r") as f:
        f.visititems(lambda name, item: found.__setitem__(name, item[()]) if isinstance(item, h5py.Dataset) else None)
    return found


def compare(a, b, what):
    """Worst relative norm over tensors of one kind; a tensor that is zero in both counts as equal."""
    worst, where = 0.0, ""
    keys = [k for k in a if what(k)]
    assert keys and keys == [k for k in b if what(k)]
    for k in keys:
        scale = np.linalg.norm(a[k])
        error = np.linalg.norm(np.float64(a[k]) - b[k]) / scale if scale > 0 else np.linalg.norm(b[k])
        if not error <= worst:
            worst, where = error, k
    return worst, where


def parity(base, out, parameters=1e-4):
    failures = []
    (l0, e0), (l1, e1) = losses(base), losses(out)
    if l0.shape != (STEPS,) or l1.shape != l0.shape or not np.max(np.abs(l1 - l0) / np.abs(l0)) <= 1e-5:
        failures.append(f"losses differ: {l0} {l1}")
    if e0.shape != e1.shape or not np.max(np.abs(e1 - e0) / np.abs(e0)) <= 1e-5:
        failures.append(f"held-out figures differ: {e0} {e1}")
    gradient, where = compare(tensors(base, 1), tensors(out, 1), lambda k: k.endswith("/m"))
    if not gradient <= 1e-5:
        failures.append(f"gradient of step 1: {where} relative error {gradient:.2e}")
    weight, where = compare(tensors(base, STEPS), tensors(out, STEPS), lambda k: k.startswith("model/"))
    if not weight <= parameters:
        failures.append(f"parameters after step {STEPS}: {where} relative error {weight:.2e}")
    return failures, gradient, weight


def rewind(source, out, step):
    """A copy of a run as it was right after `step`."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(source, out)
    for later in range(step + 1, STEPS + 1):
        shutil.rmtree(os.path.join(out, "checkpoints", f"step_{later:08}"))
    with open(os.path.join(out, "checkpoints", "latest"), "w") as f:
        f.write(f"step_{step:08}\n")


def gradient_of(out, step):
    before, after = tensors(out, step - 1), tensors(out, step)
    return {k: np.float64(after[k]) - 0.9 * before[k] for k in after if k.endswith("/m")}


def identical(a, b, step):
    x, y = tensors(a, step), tensors(b, step)
    return x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) for k in x) and losses(a)[0].tolist() == losses(b)[0].tolist()


def write_token_file(prefix, documents):
    """Megatron's format, of u16 tokens."""
    lengths = np.array([len(d) for d in documents], np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64) * 2]).astype(np.int64)
    np.concatenate(documents).astype("<u2").tofile(prefix + ".bin")
    with open(prefix + ".idx", "wb") as f:
        f.write(b"MMIDIDX\0\0" + np.uint64(1).tobytes() + np.uint8(8).tobytes() + np.uint64([len(lengths), len(lengths) + 1]).tobytes())
        f.write(lengths.tobytes() + offsets.tobytes() + np.arange(len(lengths) + 1, dtype=np.int64).tobytes())


def check_data(bench, tally):
    """Token files of two sources, packed: every layout, and a run that goes on with more replicas, trains on the same samples. Epochs of 20 to 40
    sequences against 8 a step: the runs go over their ends."""
    rng = np.random.default_rng(5)
    for name in ("one", "two"):
        write_token_file(os.path.join(bench.root, name), [rng.integers(1, 259, rng.integers(1, 40)) for _ in range(40)])
    sources = "".join(f'[[data.sources]]\npaths = ["{os.path.join(bench.root, name)}"]\nweight = {weight}\n' for name, weight in (("one", 2), ("two", 1)))
    recipe = RECIPE.replace('paths = ["{text}"]\n', 'packing = "best_fit"\n').replace("[optimizer]", sources + "[optimizer]")
    base = bench.run("tokens", recipe=recipe)
    said = [] if bench.output.count("packing efficiency") == 2 else ["expected a packing efficiency for each source", bench.output]
    with open(os.path.join(base, "metrics.jsonl")) as f:
        waits = [x["data_wait"] for x in map(json.loads, f) if "loss" in x]
    said += [] if len(waits) == STEPS and min(waits) >= 0 else [f"data_wait: {waits}"]
    tally.tell("token files: efficiency and waiting are told", said)
    out = bench.run("tokens_layout", (2, 1, 1), (1, 1, 1), ["data.threads=2"], recipe=recipe)
    tally.tell("token files: student dp 2, teacher streamed", parity(base, out)[0])
    # Twice the sequences a step from step 4 on: where the run goes on is a number of sequences, which step and layout do not give.
    doubled = {}
    for name, layout, more in (("one rank", (1, 1, 1), ["data.accumulation=8"]), ("dp 2", (2, 1, 1), ["data.accumulation=4"]),
                               ("dp 4, one sequence a micro-batch", (4, 1, 1), ["data.micro_batch=1", "data.accumulation=4", "run.eval_batches=8"])):
        rewind(base, out, 4)
        doubled[name] = losses(bench.run("tokens_layout", layout, None, more, recipe=recipe))
    first = doubled["one rank"]
    for name, found in doubled.items():
        same = all(a.shape == b.shape and np.allclose(a, b, rtol=1e-5) for a, b in zip(found, first))
        tally.tell(f"token files: resumed with twice the sequences a step, {name}", [] if same else [f"{found} {first}"])
    tally.tell("token files: twice the sequences a step is another run", [] if not np.allclose(first[0], losses(base)[0], rtol=1e-5) else ["losses are equal"])
    bench.run("tokens_layout", (1, 1, 1), None, ["data.seed=1"], recipe=recipe, ranks=1)
    tally.tell("bad input: resumed on other data", [] if "data is not the recipe's: expected fingerprint" in bench.output else [bench.output])


class Tally:
    passed = failed = 0

    def tell(self, name, failures, note=""):
        self.failed += bool(failures)
        self.passed += not failures
        print(("FAILED " if failures else "ok     ") + name + note, *failures, sep="\n    " if failures else "", flush=True)


def rounding_alone(bench, base, keys):
    """What AdamW makes of rounding: the parameters' difference between two single-rank runs that only add up in another order."""
    regrouped = bench.run("regrouped", overrides=keys + ["data.micro_batch=1", "data.accumulation=8"])
    found = compare(tensors(base, STEPS), tensors(regrouped, STEPS), lambda k: k.startswith("model/"))[0]
    shutil.rmtree(regrouped)
    return found


def check_deep(bench, tally):
    """Five layers (uneven on four stages) on real text: parameters against what rounding alone does, gradients of every step from one state."""
    deep = ["student.layers=5", f'data.paths=["{ref.__file__}"]']
    base = bench.run("deep", overrides=deep)
    rounding = rounding_alone(bench, base, deep)
    out = os.path.join(bench.root, "deep_layout")
    for layout in [(1, 1, 4), (1, 4, 1), (1, 3, 1), (2, 2, 1), (1, 2, 2)]:
        bench.run("deep_layout", layout, (1, 1, 1), deep)
        failures, gradient, weight = parity(base, out, max(1e-4, 16 * rounding))
        for step in (2, 6, 10):
            rewind(base, out, step - 1)
            bench.run("deep_layout", layout, (1, 1, 1), deep)
            worst, where = compare(gradient_of(base, step), gradient_of(out, step), lambda k: True)
            gradient = max(gradient, worst)
            if not worst <= 2e-5:  # 1e-5 and what a difference of float32 moments adds
                failures.append(f"gradient of step {step} from the same state: {where} relative error {worst:.2e}")
        tally.tell("five layers, student dp {} tp {} pp {}".format(*layout), failures, f": gradients {gradient:.1e}, parameters {weight:.1e} (rounding alone: {rounding:.1e})")
        shutil.rmtree(out)


def check_cuda(bench, tally):
    """Ranks that share a GPU, against one rank on the CPU. Emulated, one short run alone is guarded against host code that touches device memory."""
    global STEPS
    STEPS = 2
    bench.run("guarded", (1, 2, 1), (1, 1, 1), ["run.device=cuda", "run.eval_every=1"])
    STEPS = 4
    os.environ["WUNENG_EMULATOR_GUARD"] = "0"
    cpu = bench.run("cpu", overrides=["run.device=cpu"])
    on_gpu = ["run.device=cuda"]
    rounding = rounding_alone(bench, cpu, ["run.device=cpu"])
    for name, student, teacher, keys in (("one_rank", (1, 1, 1), None, []), ("streamed", (1, 2, 2), (1, 2, 1), []),
                                         ("by_nccl", (1, 2, 2), (1, 2, 1), []), ("replicas_by_nccl", (2, 1, 1), None, ["run.recompute=true"])):
        if name == "by_nccl":
            os.environ["WUNENG_EMULATOR_GPU_PER_RANK"] = "1"
        out = bench.run(name, student, teacher, on_gpu + keys)
        failures, gradient, weight = parity(cpu, out, max(1e-4, 16 * rounding))
        tally.tell("cuda: {}, student dp {} tp {} pp {}".format(name, *student), failures, f": gradient {gradient:.1e}, parameters {weight:.1e} (rounding alone: {rounding:.1e})")
    out = os.path.join(bench.root, "resumed")
    rewind(os.path.join(bench.root, "streamed"), out, 2)
    bench.run("resumed", (1, 2, 2), (1, 2, 1), on_gpu)
    tally.tell("cuda: stopped after step 2 and resumed is bitwise equal", [] if identical(os.path.join(bench.root, "streamed"), out, STEPS) else ["checkpoints or losses differ"])
    narrow = ["student.dtype=bf16", "teacher.dtype=bf16", "teacher.stream_dtype=bf16"]
    a, b = (losses(bench.run(f"narrow_{device}", (1, 1, 1), (1, 1, 1), narrow + [f"run.device={device}"]))[0] for device in ("cpu", "cuda"))
    tally.tell("cuda: bf16 parameters, activations and logits", [] if np.allclose(a, b, rtol=2e-3) else [f"{a} {b}"])  # the CPU's activations are f32
    c = losses(bench.run("narrow_cut", (1, 2, 2), (1, 2, 1), narrow + on_gpu))[0]  # by NCCL, as WUNENG_EMULATOR_GPU_PER_RANK still says
    tally.tell("cuda: the same on tp 2 pp 2", [] if np.allclose(b, c, rtol=2e-3) else [f"{b} {c}"])
    # Each kind of sum that may go beside computation, without it and with it, and again: to the bit.
    STEPS = 2
    for layout, name, keys, overlaps in (((2, 2, 1), "f32", [], ("true",)), ((2, 2, 1), "bf16", narrow, ("true", "true")), ((2, 1, 2), "bf16", narrow, ("true",))):
        alone, *beside = (bench.run(f"overlap_{name}_{layout[2]}_{i}", layout, None, on_gpu + keys + ["student.vocab_size=263", f"run.overlap={overlap}"]) for i, overlap in enumerate(("false", *overlaps)))
        tally.tell("cuda: sums beside computation or not, {}, student dp {} tp {} pp {}".format(name, *layout), [f"{other} differs" for other in beside if not identical(alone, other, STEPS)])


def main():
    global STEPS
    program, quick = os.path.abspath(sys.argv[1]), "quick" in sys.argv[2:]
    tally = Tally()
    with tempfile.TemporaryDirectory() as root:
        bench = Bench(program, root)
        if "cuda" in sys.argv[2:]:
            found = subprocess.run([program, "generate", "none", "--prompt", "x", "--device", "cuda"], env={**os.environ, **MPI}, capture_output=True, text=True)
            if "no GPU found" in found.stderr:
                print("skipped:", found.stderr.strip())
                return 77
            check_cuda(bench, tally)
            print(f"{tally.passed} passed, {tally.failed} failed")
            return 1 if tally.failed or not tally.passed else 0
        if quick:
            STEPS = 5
        base = bench.run("base")
        layouts = [(1, 2, 2), (2, 2, 1)] if quick else [x for x in LAYOUTS if x != (1, 1, 1)]
        for layout in layouts:
            out = bench.run("layout", layout, (1, 1, 1))
            failures, gradient, weight = parity(base, out)
            tally.tell("student dp {} tp {} pp {}".format(*layout),
                       failures, f": gradient {gradient:.1e}, parameters {weight:.1e}")
            shutil.rmtree(out)
        check_data(bench, tally)
        if not quick:
            check_deep(bench, tally)
        for i, teacher in enumerate(TEACHERS[1:2] if quick else TEACHERS):
            student = [(1, 1, 1), (1, 2, 1), (2, 1, 1), (1, 1, 2), (1, 2, 2)][i]
            out = bench.run("streamed", student, teacher)
            failures, gradient, weight = parity(base, out)
            kl = np.max(np.abs(losses(out)[1] - losses(base)[1]) / losses(base)[1])
            if student == (1, 1, 1) and not kl <= 1e-6:
                failures.append(f"KL with a streamed teacher differs by {kl:.1e}")
            tally.tell("streamed: student dp {} tp {} pp {}, teacher dp {} tp {} pp {}".format(*student, *teacher), failures, f": gradient {gradient:.1e}, parameters {weight:.1e}")
            shutil.rmtree(out)
        # Bitwise: twice the same; stopped after any step and resumed; and from one layout into another.
        layout, teacher = (1, 2, 1), (1, 1, 1)
        once = bench.run("once", layout, teacher)
        tally.tell("the same run twice is bitwise equal", [] if identical(once, bench.run("twice", layout, teacher), STEPS) else ["checkpoints or losses differ"])
        for stop in ([4] if quick else range(1, STEPS)):
            out = os.path.join(root, "resumed")
            rewind(once, out, stop)
            bench.run("resumed", layout, teacher)
            tally.tell(f"stopped after step {stop} and resumed is bitwise equal", [] if identical(once, out, STEPS) else ["checkpoints or losses differ"])
            if stop == 4:
                rewind(once, out, stop)
                bench.run("resumed", (2, 1, 2), teacher)
                tally.tell("resumed in another layout", parity(base, out)[0])
        for step in (3,) if quick else (1, 3, 6, 8):
            bench.kill("killed", step, layout, teacher)
            bench.run("killed", layout, teacher)
            out = os.path.join(root, "killed")
            tally.tell(f"killed after step {step} and started again is bitwise equal", [] if identical(once, out, STEPS) else ["checkpoints or losses differ"])
            shutil.rmtree(out)
        for preset in () if quick else ("lean", "literal"):
            keys = [f"student.preset={preset}"]
            one_rank = bench.run(preset, overrides=keys)
            rounding = rounding_alone(bench, one_rank, keys)
            failures, gradient, weight = parity(one_rank, bench.run(preset + "_layout", (1, 2, 2), (1, 1, 1), keys), max(1e-4, 16 * rounding))
            tally.tell(f"preset {preset}, student dp 1 tp 2 pp 2", failures, f": gradient {gradient:.1e}, parameters {weight:.1e} (rounding alone: {rounding:.1e})")
        # Vocabulary: a teacher smaller than the student. bf16 parameters. Frozen weights stay.
        small = bench.run("small", (1, 2, 1), (1, 2, 1), ["student.vocab_size=300", "optimizer.steps=2"])
        small_base = bench.run("small_base", (1, 1, 1), (1, 1, 1), ["student.vocab_size=300", "optimizer.steps=2"])
        tally.tell("a student vocabulary beyond the teacher's", [] if np.allclose(losses(small)[0], losses(small_base)[0], rtol=1e-5) else [f"{losses(small)[0]} {losses(small_base)[0]}"])
        frozen = bench.run("frozen", (1, 1, 2), None, ['student.freeze=["*.mlp.*"]', "student.dtype=bf16"])
        a, b = tensors(frozen, 1), tensors(frozen, STEPS)
        changed = [k for k in a if k.startswith("model/") and not np.array_equal(a[k], b[k])]
        tally.tell("frozen weights stay, the others move", [k for k in changed if ".mlp." in k] or ([] if len(changed) > 50 else ["nothing moved"]))
        # Bad input: one message, no work, a non-zero exit.
        for name, overrides, ranks, text in (("unknown key", ["optimizer.lrr=1"], 2, "did you mean optimizer.lr"), ("wrong type", ["data.seq_len=abc"], 1, "expected a whole number"),
                                             ("wrong number of ranks", ["layout.pp=2"], 3, "recipe asks for 2 ranks"), ("missing file", ["teacher.path=nowhere"], 1, "nowhere/config.json")):
            bench.run("bad", (1, 1, 1), None, overrides, ranks=ranks)
            found = bench.output.count("wuneng: error")
            tally.tell(f"bad input: {name}", [] if text in bench.output and found == 1 and not os.path.exists(os.path.join(root, "bad")) else [bench.output])
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed or not tally.passed else 0


if __name__ == "__main__":
    sys.exit(main())

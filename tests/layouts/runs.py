"""Runs of the program for tests: a recipe, its data, a teacher and the ranks.

A recipe is a dict of the keys in launch/recipes/every_key.toml. RECIPE is the base; a case gives what differs
from it, with None for a key to leave out.
"""
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "reference"), os.path.join(HERE, "..")]
import ranks  # noqa: E402
import wuneng_reference as ref  # noqa: E402
from model_files import write_model  # noqa: E402

REPLICA_BATCHES = 4  # dp x accumulation of every run: the micro-batches of a step, whatever the layout

RECIPE = {
    "student.mixer": "wuneng", "student.preset": "full", "student.hidden_size": 24,
    "student.intermediate_size": 34, "student.layers": 3, "student.heads": 6, "student.kv_heads": 2,
    "student.head_dim": 8, "student.vocab_size": 259, "student.rope_theta": 10000.0, "student.chunk": 8,
    "student.decay_rank": 4, "student.rate_rank": 4,
    "loss.temperature": 1.5, "loss.ce_share": 0.25, "loss.chunk_tokens": 20,
    "data.held_out_every": 4, "data.seq_len": 24, "data.micro_batch": 2,
    "optimizer.lr": 1e-3, "optimizer.warmup": 2, "optimizer.steps": 10, "optimizer.clip": 0,
    "run.device": "cpu", "run.eval_every": 5, "run.eval_batches": 4, "run.keep": 0, "run.log_every": 100,
}


@dataclasses.dataclass(frozen=True)
class Layout:
    dp: int = 1
    tp: int = 1
    pp: int = 1
    schedule: str = "1f1b"  # of the student's pipeline
    sequence_parallel: bool = False

    @property
    def ranks(self):
        return self.dp * self.tp * self.pp

    def keys(self, section):
        degrees = {f"{section}.{k}": getattr(self, k) for k in ("dp", "tp", "pp")}
        if self.schedule != "1f1b":
            degrees[f"{section}.schedule"] = self.schedule
        if self.sequence_parallel:
            degrees[f"{section}.sequence_parallel"] = True
        return degrees

    def __str__(self):
        schedule = f" {self.schedule}" if self.schedule != "1f1b" else ""
        sequence = " sequence parallel" if self.sequence_parallel else ""
        return f"dp {self.dp} tp {self.tp} pp {self.pp}{schedule}{sequence}"


ONE = Layout()


def toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


class Runs:
    """A program, and a folder for what its runs read and write."""

    def __init__(self, program, root, recipe=None, steps=10):
        self.program, self.root, self.base, self.steps = program, root, recipe or RECIPE, steps
        # Two checkpoints: each takes longer than several steps.
        self.recipe = {**self.base, "optimizer.steps": steps, "run.checkpoint_every": steps // 2}
        rng = np.random.default_rng(3)
        self.text = os.path.join(root, "text.txt")
        with open(self.text, "wb") as f:
            f.write(bytes(rng.integers(32, 127, 40000, dtype=np.uint8)))
        # A teacher of another shape and a larger vocabulary than the student's, which is not a multiple of
        # any tp.
        c = ref.Config(mixer="attention", vocab_size=263, hidden_size=32, num_heads=4, num_kv_heads=2)
        self.teacher = os.path.join(root, "teacher")
        write_model(self.teacher, c, ref.init_model(c, rng))

    def apart(self, name):
        """The same in a folder of its own, for runs at the same time as others."""
        root = os.path.join(self.root, name)
        os.mkdir(root)
        return Runs(self.program, root, self.base, self.steps)

    def out(self, name):
        return os.path.join(self.root, name)

    def command(self, name, student=ONE, teacher=None, settings=None, started=None, subcommand="train"):
        """Writes NAME.toml and gives the command line. teacher: its layout where it streams; None: in
        process. started: the ranks to start, where they are not those of the layouts."""
        keys = {"teacher.path": self.teacher, "data.paths": [self.text], "run.out": self.out(name),
                **self.recipe, **student.keys("layout"), "data.accumulation": REPLICA_BATCHES // student.dp}
        keys |= teacher.keys("teacher.layout") if teacher else {"teacher.mode": "colocated"}
        keys |= settings or {}
        path = self.out(name) + ".toml"
        with open(path, "w") as f:
            f.writelines(f"{k} = {toml(v)}\n" for k, v in keys.items() if v is not None)
        total = started or student.ranks + (teacher.ranks if teacher else 0)
        return ranks.command(total, self.program, subcommand, path)

    def attempt(self, *arguments, environment=None, **named):
        """A run that may fail: its exit code and all it printed."""
        done = subprocess.run(self.command(*arguments, **named), env=ranks.environment(**(environment or {})),
                              capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout + done.stderr

    def run(self, name, *arguments, **named):
        """A run that must succeed: its folder. self.printed is what it printed."""
        code, self.printed = self.attempt(name, *arguments, **named)
        if code != 0:
            with open(self.out(name) + ".toml") as f:
                raise RuntimeError(f"{name}: exit {code}\n{f.read()}\n{self.printed}")
        return self.out(name)

    def kill(self, name, step, *arguments):
        """Starts a run and kills its processes (SIGKILL) a moment after it has saved `step`."""
        run = subprocess.Popen(self.command(name, *arguments), env=ranks.environment(),
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        while latest_step(self.out(name)) < step:
            if run.poll() is not None:
                raise RuntimeError(f"{name}: ended before step {step}")
            time.sleep(0.002)
        for pid in [*children(run.pid), run.pid]:  # the ranks are in process groups of their own
            os.kill(pid, signal.SIGKILL)
        run.wait()


def latest_step(out):
    """Of the newest checkpoint; 0 where there is none."""
    path = os.path.join(out, "checkpoints", "latest")
    if not os.path.exists(path):
        return 0
    with open(path) as f:
        return int(f.readline().strip()[-8:])


def children(parent):
    """Process ids."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as f:
                if int(f.read().rsplit(")", 1)[1].split()[1]) == parent:
                    found.append(int(pid))
        except OSError:
            pass  # it ended meanwhile
    return found


def write_token_file(prefix, documents, dtype=np.uint16):
    """Megatron's format, of u16 tokens, or of u8 for a loss mask."""
    lengths = np.array([len(d) for d in documents], np.int32)
    offsets = np.cumsum(lengths, dtype=np.int64) - lengths
    offsets *= np.dtype(dtype).itemsize
    np.concatenate(documents).astype(dtype).tofile(prefix + ".bin")
    with open(prefix + ".idx", "wb") as f:
        f.write(b"MMIDIDX\0\0" + np.uint64(1).tobytes())
        f.write(np.uint8({np.uint8: 1, np.uint16: 8}[dtype]).tobytes())
        f.write(np.uint64([len(lengths), len(lengths) + 1]).tobytes())
        f.write(lengths.tobytes() + offsets.tobytes() + np.arange(len(lengths) + 1, dtype=np.int64).tobytes())


def token_sources(root, lengths=range(1, 40), masked=False):
    """Two token files of 40 documents, each of one of `lengths` tokens, and the settings that mix them 2 : 1.
    masked: a third of the tokens, and all of every fifth document, have no loss."""
    rng = np.random.default_rng(5)
    sources = []
    for name, weight in (("one", 2), ("two", 1)):
        prefix = os.path.join(root, name + "_masked" * masked)
        documents = [rng.integers(1, 259, rng.choice(lengths)) for _ in range(40)]
        write_token_file(prefix, documents)
        if masked:
            masks = [(rng.integers(0, 3, len(d)) > 0) & (i % 5 > 0) for i, d in enumerate(documents)]
            write_token_file(prefix + "_mask", masks, np.uint8)
        sources.append({"paths": [prefix], "weight": weight})
    return {"data.paths": None, "data.packing": "best_fit", "data.sources": sources}


def pair_sources(root, most=11):
    """Preference pairs in two sources, answers of 3 to `most` tokens to prompts of 1 or 2, and the settings
    that mix them 2 : 1."""
    rng = np.random.default_rng(6)
    sources = []
    for name, weight in (("one", 2), ("two", 1)):
        prefix = os.path.join(root, name + "_pairs")
        prompts = [rng.integers(1, 259, rng.integers(1, 3)) for _ in range(40)]
        for side in ("chosen", "rejected"):
            answers = [rng.integers(1, 259, rng.integers(2, most - 1)) for _ in prompts]
            write_token_file(f"{prefix}_{side}", [np.concatenate(x) for x in zip(prompts, answers)])
            masks = [np.repeat([0, 1], [len(p), len(a)]) for p, a in zip(prompts, answers)]
            write_token_file(f"{prefix}_{side}_mask", masks, np.uint8)
        sources.append({"paths": [prefix], "weight": weight})
    return {"data.paths": None, "data.sources": sources}

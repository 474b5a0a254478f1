"""Runs that are stopped, killed or resumed: to the bit in the same layout, within rounding in another."""
import os
import shutil

import numpy as np

import parity
import results
from runs import ONE, Layout, token_sources

LAYOUT, TEACHER = Layout(tp=2), ONE
EVERY_STEP = {"run.checkpoint_every": 1}


def check(runs, tally, quick=False):
    base = runs.run("base")
    once = runs.run("once", LAYOUT, TEACHER, EVERY_STEP)
    resumed = runs.out("resumed")

    def check_identical(name, out):
        tally.check(f"{name} is equal to the bit", not results.identical(once, out, runs.steps))

    check_identical("the same run twice", runs.run("twice", LAYOUT, TEACHER))
    for stop in (4,) if quick else (1, 4, 5, 9):
        results.rewind(once, resumed, stop)
        runs.run("resumed", LAYOUT, TEACHER)
        check_identical(f"stopped after step {stop} and resumed", resumed)
    for step in (3,) if quick else (1, 6):
        runs.kill("killed", step, LAYOUT, TEACHER, EVERY_STEP)
        check_identical(f"killed after step {step} and started again", runs.run("killed", LAYOUT, TEACHER))
        shutil.rmtree(runs.out("killed"))
    results.rewind(once, resumed, 4)
    runs.run("resumed", Layout(dp=2, pp=2, schedule="zb_h1"), TEACHER)
    tally.check("resumed in another layout and schedule", *parity.compare(base, resumed, runs.steps))
    check_alignment(runs, tally)
    check_frozen(runs, tally)
    check_state_tuning(runs, tally)
    check_samples(runs, tally)


def check_alignment(runs, tally):
    """With the projections of a teacher that is wider than the student."""
    once = runs.run("aligned", LAYOUT, TEACHER, parity.ALIGN)
    results.rewind(once, runs.out("resumed"), runs.steps // 2)
    resumed = runs.run("resumed", LAYOUT, TEACHER, parity.ALIGN)
    tally.check("alignment, stopped and resumed, is equal to the bit",
                not results.identical(once, resumed, runs.steps))


def check_frozen(runs, tally):
    frozen = runs.run("frozen", Layout(pp=2), None,
                      {"student.freeze": ["*.mlp.*"], "student.dtype": "bf16", **EVERY_STEP})
    moved = results.differing_tensors(results.parameters(frozen, 1), results.parameters(frozen, runs.steps))
    tally.check("frozen weights stay", [k for k in moved if ".mlp." in k])
    tally.check("the others move, in bf16 too", len(moved) <= 50, f"{len(moved)} tensors moved")


# Of a trained student: the shape and the mixers are its own.
TUNING = {**{f"student.{key}": None for key in (
    "mixer", "preset", "hidden_size", "intermediate_size", "layers", "heads", "kv_heads", "head_dim",
    "vocab_size", "rope_theta", "chunk", "decay_rank", "rate_rank")},
    "student.learn_initial_state": True, "student.train": ["*.initial_state"], "optimizer.lr": 0.03}


def check_state_tuning(runs, tally):
    """The initial states of both students are learned after all else."""
    mixers = parity.RWKV7 | {"student.layer_mixers": ["1:wuneng"], "student.chunk": 8}
    trained = runs.run("trained", ONE, None, mixers)
    start = {"student.init_from": os.path.join(trained, "checkpoints")}
    tuning = TUNING | start
    once = runs.run("tuned", LAYOUT, TEACHER, tuning | EVERY_STEP)
    before = results.parameters(trained, runs.steps)
    after = results.parameters(once, runs.steps)
    added = [f"model/model.layers.{i}.self_attn.{mixer}.initial_state"
             for i, mixer in enumerate(("rwkv7", "state", "rwkv7"))]
    tally.check("state tuning adds initial states", sorted(after.keys() - before.keys()) != added)
    tally.check("and moves them", [k for k in added if not after[k].any()])
    tally.check("and nothing else", results.differing_tensors(
        before, {k: v for k, v in after.items() if k not in added}))
    # The same samples without a step.
    losses = results.losses(once)
    frozen = results.losses(runs.run("untuned", LAYOUT, TEACHER, start | TUNING | {
        "student.learn_initial_state": False, "student.train": ["model.norm.weight"], "optimizer.lr": 0}))
    tally.check("it starts from the trained model's loss",
                not results.relative(frozen[:1], losses[:1]) <= parity.ROUNDING.losses)
    tally.check("and lowers it", bool(losses[-1] >= frozen[-1]), f"{losses[-1]:.4f} from {frozen[-1]:.4f}")
    results.rewind(once, runs.out("resumed"), 4)
    resumed = runs.run("resumed", LAYOUT, TEACHER, tuning)
    tally.check("state tuning, stopped and resumed, is equal to the bit",
                not results.identical(once, resumed, runs.steps))
    tuned = runs.run("tuned_by_one", ONE, None, tuning)
    tally.check("state tuning on one rank", *parity.compare(tuned, once, runs.steps))


def check_samples(runs, tally):
    """Twice the sequences a step from step 4 on, over the end of an epoch: where a run goes on is a number of
    sequences, which step and layout do not give."""
    tokens = token_sources(runs.root)
    base = runs.run("tokens", settings=tokens | {"run.checkpoint_every": 4})
    waits = [x["data_wait"] for x in results.metrics(base) if "loss" in x]
    tally.check("data_wait is written for each step",
                [] if len(waits) == runs.steps and min(waits) >= 0 else [f"{waits}"])
    found = {}
    for student, changes in (
            (ONE, {"data.accumulation": 8}), (Layout(dp=2), {"data.accumulation": 4}),
            (Layout(dp=4), {"data.micro_batch": 1, "data.accumulation": 4, "run.eval_batches": 8})):
        results.rewind(base, runs.out("doubled"), 4)
        out = runs.run("doubled", student, None, tokens | changes)
        found[student] = results.losses(out), results.held_out(out)
    for student, figures in found.items():
        far = max(results.relative(*pair) for pair in zip(found[ONE], figures))
        tally.check(f"resumed with twice the sequences a step, {student}", not far <= parity.ROUNDING.losses,
                    f"losses {far:.0e}")
    same = np.allclose(found[ONE][0], results.losses(base), rtol=1e-5)
    tally.check("twice the sequences a step is another run", bool(same))
    code, printed = runs.attempt("doubled", settings=tokens | {"data.seed": 1})
    wanted = "data is not the recipe's: expected fingerprint"
    tally.check("resumed on other data is refused", [] if code and wanted in printed else [printed])

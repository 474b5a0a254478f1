"""ZeRO-1: replicas that share the optimizer's state train as one rank does, and to the bit as replicas that
hold all of it each, through changes of the number of replicas too."""
import dataclasses

import parity
import results
from runs import ONE, Layout

ALL, SHARES = ({**parity.SUPERVISED, "optimizer.zero": zero} for zero in (0, 1))
BOUNDS = dataclasses.replace(parity.ROUNDING, norms=1e-6)
CLIPPED = {"optimizer.clip": 0.5, "run.check_replicas_every": 1}
# What is trained has fewer elements than a bucket has room for: some ranks of four have nothing to update.
FEW = {"student.train": ["model.norm.weight"]}
STATES = {"student.learn_initial_state": True, "student.train": ["*.initial_state", "*.self_attn.state.*"]}
FROZEN = {"student.freeze": ["*.mlp.*"]}
BF16 = {"student.dtype": "bf16"}
UNTIED = {"student.tie_word_embeddings": False}
UNEVEN = {"student.heads": 5, "student.kv_heads": 5}

# name, student, settings; the first ones are the quick form
SAME_BITS = [
    ("bf16", Layout(dp=3), BF16 | CLIPPED),
    ("few elements", Layout(dp=4), FEW | CLIPPED),
    ("default", Layout(dp=2, tp=2), CLIPPED),
    ("tied embedding on two stages", Layout(dp=2, pp=2), BF16 | CLIPPED),
    ("5 heads", Layout(dp=2, tp=3), UNEVEN | CLIPPED),
    ("frozen", Layout(dp=4), FROZEN | BF16 | CLIPPED),
    ("state tuning", Layout(dp=3, tp=2), STATES | CLIPPED),
]
LIKE_ONE_RANK = [
    ("default", {}, [Layout(dp=2, tp=2, pp=2), Layout(dp=4, tp=2), Layout(dp=4, pp=2), Layout(dp=2, tp=3),
                     Layout(dp=2, pp=3), Layout(dp=4)]),
    ("untied embedding, 5 heads", UNTIED | UNEVEN, [Layout(dp=2, tp=2, pp=2), Layout(dp=2, tp=4)]),
    ("4 layers", {"student.layers": 4}, [Layout(dp=2, pp=2, schedule="zb_v"),
                                         Layout(dp=4, pp=2, schedule="interleaved")]),
    ("frozen", FROZEN, [Layout(dp=2, tp=2), Layout(dp=4, pp=2)]),
    ("state tuning", STATES, [Layout(dp=4, tp=2)]),
]
# A run through these layouts, so many steps in each.
CHAIN, STEPS_EACH = [Layout(dp=2), Layout(dp=4), ONE, Layout(dp=2)], 2


def check(runs, tally, quick=False):
    for name, student, settings in SAME_BITS[:2] if quick else SAME_BITS:
        check_bits(runs, tally, name, student, settings)
    check_chain(runs, tally, "f32", [{}] * len(CHAIN))
    if not quick:
        check_chain(runs, tally, "from f32 to bf16", [{}, BF16, BF16, BF16])
        for name, settings, layouts in LIKE_ONE_RANK:
            check_one_rank(runs, tally, name, settings, layouts)
    check_bytes(runs, tally)


def differences(a, b, step):
    same_norms = results.gradient_norms(a).tolist() == results.gradient_norms(b).tolist()
    return ([] if same_norms else ["gradient norms differ"]) + (
        [] if results.identical(a, b, step) else ["losses or the checkpoint differ"])


def check_bits(runs, tally, name, student, settings):
    a, b = (runs.run(f"zero{zero['optimizer.zero']}", student, None, settings | zero | {"run.resume": "none"})
            for zero in (ALL, SHARES))
    tally.check(f"shared or not, {name}, student {student}: equal to the bit",
                differences(a, b, runs.steps // 2) + differences(a, b, runs.steps))


def check_chain(runs, tally, name, settings):
    """Goes on with other numbers of replicas and back: the same bits as without shares."""
    steps = STEPS_EACH * len(CHAIN)
    found = []
    for zero in (ALL, SHARES):
        for i, (student, keys) in enumerate(zip(CHAIN, settings)):
            out = runs.run(f"chain {name} {zero['optimizer.zero']}", student, None, keys | zero | {
                "optimizer.steps": STEPS_EACH * (i + 1), "optimizer.lr": 1e-3, "optimizer.min_lr": 1e-3,
                "run.checkpoint_every": 1})
        found.append(out)
    went_on = len(results.losses(found[1])) == steps
    tally.check(f"{name}: through dp {', '.join(str(x.dp) for x in CHAIN)}: equal to the bit",
                [x for step in range(1, steps + 1) for x in differences(*found, step)] if went_on else
                ["a run began again in place of going on"])


def check_one_rank(runs, tally, name, settings, layouts):
    one = runs.run("one", settings=settings | ALL | {"run.resume": "none"})
    for student in layouts:
        out = runs.run("other", student, None, settings | SHARES | {"run.resume": "none"})
        failures, note = parity.compare(one, out, runs.steps, BOUNDS)
        norms = results.relative(results.gradient_norms(one), results.gradient_norms(out))
        tally.check(f"{name}, student {student}", failures, f"{note}; of all steps {norms:.0e}")


def check_bytes(runs, tally):
    """Of the rank that holds most: a replica's state over the replicas, and what alignment moves between
    them."""
    def state(student, settings):
        out = runs.run("bytes", student, None, settings | {"optimizer.steps": 2, "run.resume": "none"})
        return next(x["optimizer_bytes"] for x in results.metrics(out) if "loss" in x)

    wide = {"student.hidden_size": 48, "student.intermediate_size": 400}
    for name, settings in (("f32", wide), ("bf16", wide | BF16)):
        whole = state(ONE, settings | ALL)
        for dp in (2, 4):
            share = state(Layout(dp=dp), settings | SHARES) * dp / whole
            tally.check(f"{name}: bytes of the optimizer's state with dp {dp}", not 1 <= share <= 1.05,
                        f"{share:.3f} of {whole} bytes over {dp}")
        tally.check(f"{name}: all of it without shares", state(Layout(dp=2), settings | ALL) != whole)

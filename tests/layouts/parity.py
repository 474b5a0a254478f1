"""Every layout trains as one rank does: the table of cases, and the bounds that they keep.

AdamW divides a gradient by its own size: an element whose gradient is near zero moves by a full step in a
direction that rounding decides. The bounds of parameters and moments are therefore wider than rounding; a
wrong gradient of any tensor is far beyond them, and losses and gradient norms show what is left of it.
"""
import concurrent.futures
import dataclasses
import os
import shutil

import results
from runs import ONE, Layout, pair_sources, token_sources

NORM_STEPS = 6


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Largest relative differences between two runs."""
    losses: float      # of all steps; held-out figures too
    norms: float       # gradient norms of the first NORM_STEPS
    moments: float     # AdamW's first moments after the first half of the steps, each tensor
    parameters: float  # after the last step, each tensor


# About ten times what was measured over all cases of MODELS: 7e-8, 2e-7, 2e-5, 6e-5.
ROUNDING = Bounds(losses=1e-6, norms=1e-5, moments=2e-4, parameters=5e-4)


@dataclasses.dataclass(frozen=True)
class Model:
    """What is trained, and the layouts that must train it alike: (student, teacher where it streams)."""
    name: str
    settings: dict
    layouts: list
    quick: int = 0          # how many of the layouts a sanitizer build runs
    documents: tuple = ()   # where given: token files, in place of text, with documents of these lengths
    masked: bool = False    # with loss masks
    pairs: bool = False     # preference pairs in place of text


def streamed(*students):
    return [(student, ONE) for student in students]


REAL_TEXT = {"data.paths": [os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference",
                                         "wuneng_reference.py")]}

# Stage 1 has none of these.
ALIGN = {"loss.objective": "align", "loss.temperature": None, "loss.ce_share": None,
         "loss.chunk_tokens": None}
# The reference is of another shape than the student, so rewards are of the size of log-probabilities.
DPO = {"loss.objective": "dpo", "loss.temperature": None, "loss.ce_share": None, "loss.chunk_tokens": 7}

RWKV7 = {"student.mixer": "rwkv7", "student.preset": None, "student.chunk": None, "student.rwkv_head_dim": 8}

SUPERVISED = {"loss.objective": "ce", "loss.ce_share": None, "teacher.path": None, "teacher.mode": None,
              "loss.temperature": None}

MODELS = [
    Model("default", {}, [
        (Layout(tp=2, pp=2), Layout(tp=3)), (Layout(dp=2, tp=2), ONE), (Layout(dp=2, pp=2), None),
        (Layout(tp=2), Layout(tp=2)), (Layout(tp=3), ONE), (Layout(tp=4), ONE),
        (Layout(pp=2), Layout(pp=2)), (Layout(pp=3), ONE),
        (Layout(dp=2), Layout(dp=2)), (Layout(dp=4), ONE), (ONE, ONE)], 1),
    Model("5 heads", {"student.heads": 5, "student.kv_heads": 5}, streamed(Layout(tp=3), Layout(tp=4))),
    Model("9 heads of 3 kv", {"student.heads": 9, "student.kv_heads": 3},
          streamed(Layout(tp=4), Layout(tp=2, pp=2))),
    Model("5 layers on real text", {"student.layers": 5, **REAL_TEXT},
          streamed(Layout(pp=4), Layout(tp=4), Layout(dp=2, tp=2))),
    # A tied embedding's two uses are on one rank (zb_v) or on two.
    Model("schedules", {"student.layers": 5, "student.vocab_size": 263}, [
        (Layout(pp=2, schedule="zb_v"), Layout(pp=2)), (Layout(pp=2, tp=2, schedule="zb_v"), None),
        (Layout(pp=2, schedule="interleaved"), None), (Layout(pp=2, dp=2, schedule="interleaved"), ONE),
        (Layout(pp=4, schedule="zb_h1"), ONE), (Layout(schedule="zb_v"), None)], 1),
    Model("schedules of rwkv7, untied", RWKV7 | {"student.layers": 6, "student.tie_word_embeddings": False}, [
        (Layout(pp=3, schedule="zb_v"), ONE), (Layout(pp=2, tp=2, schedule="interleaved"), ONE)]),
    # 50 rows on 2, 3 or 4 ranks: shares of 25, 17 and 13.
    Model("sequence parallel", {"student.layers": 4, "data.seq_len": 25}, [
        (Layout(tp=3, sequence_parallel=True), ONE), (Layout(dp=2, tp=2, sequence_parallel=True), None),
        (Layout(pp=2, tp=2, schedule="zb_v", sequence_parallel=True), None)], 1),
    Model("sequence parallel, rwkv7, recomputed", RWKV7 | {"run.recompute": True}, [
        (Layout(pp=2, tp=2, sequence_parallel=True), ONE)]),
    Model("chunk 13", {"student.chunk": 13}, streamed(Layout(tp=3), Layout(pp=3))),
    Model("documents of one token", {}, streamed(Layout(dp=2), Layout(tp=2, pp=2)), 1,
          documents=(1, 1, 1, 12)),
    Model("token files", {"data.threads": 2}, streamed(Layout(dp=2), Layout(dp=4)),
          documents=tuple(range(1, 40))),
    Model("temperature 0.7, cross entropy 0.9", {"loss.temperature": 0.7, "loss.ce_share": 0.9},
          streamed(Layout(dp=2, tp=2))),
    Model("reverse KL", {"loss.objective": "reverse_kl"}, streamed(Layout(tp=3))),
    Model("Jensen-Shannon", {"loss.objective": "jsd", "loss.beta": 0.3}, streamed(Layout(tp=2, pp=2))),
    Model("a vocabulary beyond the teacher's", {"student.vocab_size": 300}, [(Layout(tp=2), Layout(tp=2))]),
    Model("the teacher's vocabulary", {"student.vocab_size": 263}, [(Layout(tp=3), None)]),
    Model("untied embedding", {"student.tie_word_embeddings": False}, streamed(Layout(pp=3))),
    Model("lean", {"student.preset": "lean"}, streamed(Layout(tp=2, pp=2))),
    Model("literal", {"student.preset": "literal"}, streamed(Layout(tp=2, pp=2))),
    Model("a state head for every kv head", {"student.state_heads": 2}, streamed(Layout(tp=3))),
    Model("attention", {"student.mixer": "attention", "student.preset": None, "student.chunk": None,
                    "student.decay_rank": None, "student.rate_rank": None}, streamed(Layout(tp=2, pp=2))),
    Model("attention of Qwen3: norms of queries and keys", {"student.family": "qwen3"},
          streamed(Layout(tp=4), Layout(tp=2, pp=2))),
    Model("rwkv7", RWKV7, [  # its values of the first layer pass through three stages
        (Layout(tp=3), ONE), (Layout(pp=3), ONE), (Layout(tp=2, pp=2), Layout(tp=2))], 1),
    Model("rwkv7 with all its parts, among others", RWKV7 | {
        "student.rwkv_gate": True, "student.rwkv_group_norm": True, "student.learn_initial_state": True,
        "student.layers": 5, "student.layer_mixers": ["1:attention", "3:wuneng"], "student.chunk": 8},
        streamed(Layout(tp=2, pp=2), Layout(pp=4), Layout(dp=2, tp=2))),
    Model("a learned initial state", {"student.learn_initial_state": True},
          streamed(Layout(tp=4), Layout(pp=3))),
    Model("alignment of rwkv7", ALIGN | RWKV7, [(Layout(pp=3), ONE), (Layout(tp=2, pp=2), ONE)]),
    # The teacher has two layers, the student three: layers of two stages are aligned with the same one.
    Model("alignment", ALIGN, [
        (Layout(dp=2, tp=2), ONE), (Layout(tp=3), Layout(tp=2, pp=2)), (Layout(pp=3), Layout(pp=2)),
        (Layout(tp=2, pp=2), Layout(dp=2, tp=3)), (ONE, ONE), (ONE, Layout(tp=2))], 1),
    Model("alignment, colocated", ALIGN | {"student.layers": 2, "student.heads": 5, "student.kv_heads": 5},
          [
        (Layout(tp=3), None), (Layout(pp=2, tp=2), None), (Layout(dp=2, pp=2), None),
        (Layout(tp=2), ONE)], 1),
    Model("alignment, of the teacher's width", ALIGN | {"student.hidden_size": 32, "student.layers": 2}, [
        (Layout(tp=2), Layout(tp=2)), (Layout(pp=2), None)]),
    # Replicas and micro-batches have different numbers of labels: the mean is over those of the step.
    Model("supervised", SUPERVISED, [(Layout(dp=2, tp=2), None), (Layout(dp=4), None), (Layout(pp=2), None)],
          1, documents=tuple(range(1, 24)), masked=True),
    Model("preference pairs", DPO | {"loss.label_smoothing": 0.1}, [
        (Layout(tp=2, pp=2), Layout(tp=3)), (Layout(dp=2, tp=2), None), (Layout(dp=4), Layout(tp=2, pp=2)),
        (Layout(pp=2, schedule="zb_h1"), None), (ONE, Layout(dp=2))], 1, pairs=True),
    Model("preference pairs, length-normalised", DPO | {"loss.length_normalised": True, "loss.beta": 2.0}, [
        (Layout(tp=3), Layout(pp=2)), (Layout(dp=2), ONE)], pairs=True),
]


def compare(one, other, steps, bounds=ROUNDING):
    """What keeps a run from being the same as one rank's, as texts; and a note of how far they are apart."""
    failures, notes = [], []

    def within(bound, what, difference, where=""):
        notes.append(f"{what} {difference:.0e}")
        if not difference <= bound:
            failures.append(f"{what}: {where} differs by {difference:.1e}, expected at most {bound:.0e}")

    def arrays(read):
        return results.relative(read(one), read(other))

    def tensors(read, step):
        return results.largest_difference(read(one, step), read(other, step))

    if results.losses(one).shape != (steps,):
        failures.append(f"one rank has {len(results.losses(one))} losses, expected {steps}")
    within(bounds.losses, "losses", arrays(results.losses))
    within(bounds.losses, "held-out figures", arrays(results.held_out))
    within(bounds.norms, "gradient norms", arrays(lambda out: results.gradient_norms(out)[:NORM_STEPS]))
    within(bounds.moments, "moments", *tensors(results.first_moments, steps // 2))
    within(bounds.parameters, "parameters", *tensors(results.parameters, steps))
    return failures, ", ".join(notes)


def check_model(runs, model, layouts):
    """What Tally.check takes, of each check."""
    checks = []
    settings = dict(model.settings)
    if model.documents:
        settings |= token_sources(runs.root, model.documents, model.masked)
    if model.pairs:
        settings |= pair_sources(runs.root)
    one = runs.run("one", settings=settings)
    if model.documents:
        found = runs.printed.count("packing efficiency")
        checks.append((f"{model.name}: a packing efficiency for each source", found != 2, f"found {found}"))
    for student, teacher in layouts:
        other = runs.run("other", student, teacher, settings)
        checks.append((f"{model.name}, student {student}, teacher {teacher or 'colocated'}",
                       *compare(one, other, runs.steps)))
        shutil.rmtree(other)
    shutil.rmtree(runs.root)
    return checks


def check(runs, tally, quick=False):
    chosen = [(model, model.layouts[:model.quick] if quick else model.layouts) for model in MODELS]
    chosen = [(model, layouts) for model, layouts in chosen if layouts]
    # Two at a time: much of a short run is its ranks' start, which leaves the cores idle.
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = [pool.submit(check_model, runs.apart(f"model{i}"), model, layouts)
                 for i, (model, layouts) in enumerate(chosen)]
        for checks in found:
            for check_arguments in checks.result():
                tally.check(*check_arguments)

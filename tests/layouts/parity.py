"""Every layout trains as one rank does: the table of cases, and the bounds that they keep.

AdamW divides a gradient by its own size: an element whose gradient is near zero moves by a full step in a direction that
rounding decides. PARAMETERS is therefore wide; losses and gradient norms show what it comes to.
"""
import dataclasses
import os
import shutil

import results
from runs import ONE, Layout, token_sources

LOSSES = 1e-5           # of all steps, relative; held-out figures too
GRADIENT_NORMS = 5e-3   # of the first NORM_STEPS, relative
NORM_STEPS = 6
FIRST_GRADIENT = 1e-5   # of step 1, relative, each tensor
LATER_GRADIENT = 2e-5   # of a later step from the same state: a difference of float32 moments adds to it
PARAMETERS = 1e-3       # after the last step, relative, each tensor


@dataclasses.dataclass(frozen=True)
class Model:
    """What is trained, and the layouts that must train it alike: (student, teacher where it streams)."""
    name: str
    settings: dict
    layouts: list
    quick: int = 0          # how many of the layouts a sanitizer build runs
    documents: tuple = ()   # where given: token files, in place of text, with documents of these lengths


def streamed(*students):
    return [(student, ONE) for student in students]


DEFAULT = Model("default", {}, [
    *streamed(*(Layout(dp, tp, pp) for dp in (1, 2, 4) for tp in (1, 2, 3, 4) for pp in (1, 2, 3) if 1 < dp * tp * pp <= 4)),
    (ONE, ONE), (Layout(tp=2), Layout(tp=2)), (Layout(dp=2), Layout(dp=2)), (Layout(pp=2), Layout(pp=2)),
    (Layout(tp=2, pp=2), Layout(tp=3)), (Layout(dp=2, pp=2), None)])

REAL_TEXT = {"data.paths": [os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference",
                                         "wuneng_reference.py")]}

MODELS = [
    DEFAULT,
    Model("5 heads", {"student.heads": 5, "student.kv_heads": 5}, streamed(Layout(tp=3), Layout(tp=4))),
    Model("9 heads of 3 kv", {"student.heads": 9, "student.kv_heads": 3}, streamed(Layout(tp=4), Layout(tp=2, pp=2)), 1),
    Model("5 layers on real text", {"student.layers": 5, **REAL_TEXT},
          streamed(Layout(pp=4), Layout(tp=4), Layout(tp=3), Layout(dp=2, tp=2), Layout(tp=2, pp=2))),
    Model("chunk 13", {"student.chunk": 13}, streamed(Layout(tp=3), Layout(pp=3))),
    Model("documents of one token", {}, streamed(Layout(dp=2), Layout(tp=2, pp=2)), 1, documents=(1, 1, 1, 12)),
    Model("token files", {"data.threads": 2}, streamed(Layout(dp=2), Layout(dp=4)), documents=tuple(range(1, 40))),
    Model("temperature 0.7, cross entropy 0.9", {"loss.temperature": 0.7, "loss.ce_share": 0.9}, streamed(Layout(dp=2, tp=2))),
    Model("a vocabulary beyond the teacher's", {"student.vocab_size": 300}, [(Layout(tp=2), Layout(tp=2))]),
    Model("the teacher's vocabulary", {"student.vocab_size": 263}, [(Layout(tp=3), None)]),
    Model("untied embedding", {"student.tie_word_embeddings": False}, streamed(Layout(pp=3))),
    Model("lean", {"student.preset": "lean"}, streamed(Layout(tp=2, pp=2))),
    Model("literal", {"student.preset": "literal"}, streamed(Layout(tp=2, pp=2))),
    Model("a state head for every kv head", {"student.state_heads": 2}, streamed(Layout(tp=3), Layout(tp=4))),
    Model("qwen2", {"student.mixer": "qwen2", **dict.fromkeys(("student.preset", "student.chunk", "student.decay_rank", "student.rate_rank"))},
          streamed(Layout(tp=3), Layout(tp=2, pp=2))),
]


def compare(one, other, steps):
    """What keeps a run from being the same as one rank's, as texts; and a note of how far they are apart."""
    failures = []

    def within(bound, what, difference, where=""):
        if not difference <= bound:
            failures.append(f"{what}{where and ' of '}{where}: differs by {difference:.1e}, expected at most {bound:.0e}")
        return difference

    losses, norms = results.losses, lambda out: results.gradient_norms(out)[:NORM_STEPS]
    if losses(one).shape != (steps,):
        failures.append(f"one rank has {len(losses(one))} losses, expected {steps}")
    loss = within(LOSSES, "losses", results.relative(losses(one), losses(other)))
    within(LOSSES, "held-out figures", results.relative(results.held_out(one), results.held_out(other)))
    norm = within(GRADIENT_NORMS, "gradient norms", results.relative(norms(one), norms(other)))
    gradient = within(FIRST_GRADIENT, "gradient of step 1",
                      *results.largest_difference(results.gradient(one, 1), results.gradient(other, 1)))
    weight = within(PARAMETERS, "parameters",
                    *results.largest_difference(results.parameters(one, steps), results.parameters(other, steps)))
    return failures, (f"losses {loss:.0e}, gradient norms {norm:.0e}, first gradient {gradient:.0e}, "
                      f"parameters {weight:.0e}")


def check(runs, tally, quick=False):
    for model in MODELS:
        layouts = model.layouts[:model.quick] if quick else model.layouts
        if not layouts:
            continue
        settings = model.settings | (token_sources(runs.root, model.documents) if model.documents else {})
        one = runs.run("one", settings=settings)
        if model.documents:
            found = runs.printed.count("packing efficiency")
            tally.check(f"{model.name}: a packing efficiency for each source", found != 2, f"found {found}")
        for student, teacher in layouts:
            other = runs.run("other", student, teacher, settings)
            tally.check(f"{model.name}, student {student}, teacher {teacher or 'in process'}",
                        *compare(one, other, runs.steps))
            shutil.rmtree(other)
        shutil.rmtree(one)
    if not quick:
        check_later_gradients(runs, tally)


def check_later_gradients(runs, tally):
    """Gradients of a step in the middle, tensor by tensor, from one and the same state: at the start some are zero."""
    one = runs.run("one")
    for student in (Layout(tp=4), Layout(pp=3), Layout(dp=2, tp=2)):
        other = runs.out("other")
        results.rewind(one, other, 5)
        runs.run("other", student, ONE)
        difference, where = results.largest_difference(results.gradient(one, 6), results.gradient(other, 6))
        tally.check(f"gradients of step 6 from the same state, student {student}", not difference <= LATER_GRADIENT,
                    f"{where} differs by {difference:.1e}")
        shutil.rmtree(other)
    shutil.rmtree(one)

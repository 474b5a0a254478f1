"""What a teacher sends for a divergence over the vocabulary: a run whose teacher sends its final hidden state
is a run that gets logits, under different layouts of both, vocabularies and output matrices; and one whose
teacher sends its most probable tokens is the same under all of them."""
import os

import numpy as np
import parity
import results
from model_files import write_model
from runs import ONE, Layout, ref

LOGITS, HIDDEN = {"teacher.signal": "logits"}, {"teacher.signal": "hidden"}
REVERSE = {"loss.objective": "reverse_kl", "loss.temperature": 0.7}
JSD = {"loss.objective": "jsd", "loss.beta": 0.3}
UNTIED = {"student.tie_word_embeddings": False}
BF16, INT8 = {"teacher.stream_dtype": "bf16"}, {"teacher.stream_dtype": "int8"}


def top_k(k):
    return {"teacher.signal": "top_k", "teacher.top_k": k}


# name; whether the teacher's output matrix is its embedding; settings; what the teacher of one rank sends,
# and of the others, which must train alike; (student, teacher where it streams) of those
CASES = [
    ("hidden state, KL", False, {}, LOGITS, HIDDEN, [
        (Layout(tp=2, pp=2), Layout(tp=3)), (Layout(dp=2, tp=2), Layout(pp=2)),
        (Layout(pp=2), Layout(dp=2, tp=2)), (Layout(tp=2), None)]),
    ("hidden state, reverse KL, a rank without columns of the teacher's", True,
     REVERSE | {"student.vocab_size": 360}, LOGITS, HIDDEN,
     [(Layout(tp=4), Layout(tp=2)), (Layout(tp=3), None)]),
    ("hidden state, Jensen-Shannon, equal vocabularies", True, JSD | UNTIED | {"student.vocab_size": 263},
     LOGITS, HIDDEN,
     [(Layout(tp=2), None), (Layout(pp=2), None), (Layout(dp=2, tp=2), Layout(tp=2, pp=2))]),
    ("hidden state, KL, bf16 weights of the teacher", False,
     {"teacher.dtype": "bf16", "student.vocab_size": 263}, LOGITS, HIDDEN,
     [(Layout(tp=3), ONE), (Layout(tp=2), None)]),
    ("all tokens but one are all tokens", False, {}, LOGITS, top_k(258), [(Layout(tp=2), Layout(tp=2))]),
    ("10 tokens, KL", False, {}, top_k(10), top_k(10), [
        (Layout(tp=2, pp=2), Layout(tp=3)), (Layout(dp=2), Layout(pp=2, tp=2)), (Layout(tp=3), None)]),
    # The last of the teacher's ranks has fewer shared columns than tokens are sent.
    ("80 tokens, Jensen-Shannon", True, JSD | {"student.vocab_size": 270}, top_k(80), top_k(80),
     [(Layout(tp=2), Layout(tp=4))]),
    ("8-bit rows of the hidden state", False, {}, HIDDEN | INT8, HIDDEN | INT8,
     [(Layout(tp=2), Layout(tp=3)), (Layout(dp=2, pp=2), Layout(pp=2))]),
    ("8-bit rows in alignment", False, parity.ALIGN, INT8, INT8, [(Layout(tp=2, pp=2), Layout(tp=2))]),
]
# A number near the middle between two of 8 bits may be rounded either way.
STEPS = parity.Bounds(losses=2e-5, norms=2e-4, moments=4e-3, parameters=1e-2)
# What the teacher sends, and how far the losses may be from the exact ones (about three times what they are).
ROUNDED = [(LOGITS | BF16, 6e-5), (LOGITS | INT8, 1e-4), (HIDDEN | BF16, 2e-4), (HIDDEN | INT8, 2e-4)]


def teachers(root):
    """Whether tied -> a directory."""
    found = {}
    for tied in (False, True):
        c = ref.Config(mixer="attention", vocab_size=263, hidden_size=32, num_heads=4, num_kv_heads=2,
                       tie_word_embeddings=tied)
        found[tied] = os.path.join(root, f"teacher_tied_{tied}")
        write_model(found[tied], c, ref.init_model(c, np.random.default_rng(7)))
    return found


def check(runs, tally):
    paths = teachers(runs.root)
    # Products of all rows at once: chunks of other sizes may be summed in another order.
    whole = {"loss.chunk_tokens": 0, "teacher.path": paths[False]}
    logits, hidden = (runs.run(f"bits{number}", ONE, ONE, whole | signal)
                      for number, signal in enumerate((LOGITS, HIDDEN)))
    tally.check("hidden state: on one rank equal to logits to the bit",
                not results.identical(logits, hidden, runs.steps))
    said = ("teacher's signal: its final hidden state", "128 bytes a token to the student",
            "at most 0.0 MiB of frozen rows on a student rank")
    tally.check("the run says what the teacher sends, and what a rank holds for it",
                [text for text in said if text not in runs.printed])
    for sent, bound in ROUNDED:
        rounded = runs.run("rounded", ONE, ONE, whole | sent | {"run.resume": "none"})
        far = results.relative(results.losses(logits), results.losses(rounded))
        tally.check(f"losses of {sent['teacher.signal']} in {sent['teacher.stream_dtype']}",
                    not 0 < far <= bound, f"{far:.1e}")
    for number, (name, tied, settings, first, second, layouts) in enumerate(CASES):
        settings = settings | {"teacher.path": paths[tied]}
        one = runs.run(f"one{number}", ONE, ONE, settings | first)
        for student, teacher in layouts:
            other = runs.run("other", student, teacher, settings | second | {"run.resume": "none"})
            tally.check(f"{name}, student {student}, teacher {teacher or 'colocated'}",
                        *parity.compare(one, other, runs.steps,
                                        STEPS if INT8.items() <= second.items() else parity.ROUNDING))

"""What a teacher sends for a divergence over the vocabulary: a run whose teacher sends its final hidden state
is a run that gets logits, under different layouts of both, vocabularies and output matrices."""
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

# name, the teacher's output matrix is its embedding, settings, (student, teacher where it streams)
CASES = [
    ("KL", False, {}, [
        (ONE, ONE), (Layout(tp=2, pp=2), Layout(tp=3)), (Layout(dp=2, tp=2), Layout(pp=2)),
        (Layout(pp=2), Layout(dp=2, tp=2)), (Layout(tp=2), None)]),
    ("reverse KL, a rank without columns of the teacher's", True, REVERSE | {"student.vocab_size": 360},
     [(Layout(tp=4), Layout(tp=2)), (Layout(tp=3), None)]),
    ("Jensen-Shannon, equal vocabularies", True, JSD | UNTIED | {"student.vocab_size": 263},
     [(Layout(tp=2), None), (Layout(pp=2), None), (Layout(dp=2, tp=2), Layout(tp=2, pp=2))]),
    ("KL, bf16 weights of the teacher", False, {"teacher.dtype": "bf16", "student.vocab_size": 263},
     [(Layout(tp=3), ONE), (Layout(tp=2), None)]),
]


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
    for number, (name, tied, settings, layouts) in enumerate(CASES):
        settings = settings | {"teacher.path": paths[tied]}
        one = runs.run(f"logits{number}", ONE, ONE, settings | LOGITS)
        for student, teacher in layouts:
            other = runs.run("hidden", student, teacher, settings | HIDDEN | {"run.resume": "none"})
            where = f"student {student}, teacher {teacher or 'colocated'}"
            tally.check(f"hidden state: {name}, {where}", *parity.compare(one, other, runs.steps))

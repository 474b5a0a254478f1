"""Bad input to several ranks: one message, no work, a non-zero exit."""
import os

from runs import ONE, Layout

CASES = [  # name, settings, ranks to start, what the message says
    ("unknown key", {"optimizer.lrr": 1}, 2, "did you mean optimizer.lr"),
    ("wrong type", {"data.seq_len": "abc"}, 1, "expected a whole number"),
    ("wrong number of ranks", {"layout.pp": 2}, 3, "recipe asks for 2 ranks"),
    ("more tokens than there are", {"teacher.signal": "top_k", "teacher.top_k": 259}, 1,
     "teacher.top_k = 259: expected fewer than the 259 tokens that both vocabularies share"),
    ("tokens in 8 bits", {"teacher.signal": "top_k", "teacher.stream_dtype": "int8"}, 1,
     'teacher.stream_dtype = "int8": expected "exact" for teacher.signal = "top_k"'),
    ("missing file", {"teacher.path": "nowhere"}, 1, "nowhere/config.json"),
]


def check(runs, tally):
    for name, settings, started, text in CASES:
        code, printed = runs.attempt("bad", ONE, None, settings, started)
        one_message = text in printed and printed.count("wuneng: error") == 1
        good = code and one_message and not os.path.exists(runs.out("bad"))
        tally.check(f"bad input: {name}", [] if good else [f"exit {code}", printed])
    # An error while the run is under way, which all ranks have in common.
    os.makedirs(runs.out("bad"))
    open(os.path.join(runs.out("bad"), "checkpoints"), "w").close()
    code, printed = runs.attempt("bad", Layout(dp=2), ONE)
    good = code == 1 and printed.count("wuneng: error") == 1 and "checkpoints" in printed
    tally.check("a folder that cannot be made: one message of three ranks", [] if good else [printed])

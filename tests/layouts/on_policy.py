"""Training on the student's own continuations: alike under every layout, in resumed and in stopped runs, and
what is refused."""
import os
import signal
import subprocess
import time

import parity
import ranks
import results
from runs import ONE, Layout, latest_step, token_sources

HALF = {"loss.ce_share": None, "on_policy.share": 0.5, "on_policy.prompt_tokens": 3}
ALL = HALF | {"on_policy.share": 1.0, "loss.objective": "reverse_kl", "on_policy.sequences": 2}
# name, settings, layouts
CASES = [
    ("half of the micro-batches", HALF, [
        (Layout(tp=2), Layout(tp=2)), (Layout(dp=4), Layout(pp=2)), (Layout(dp=2, tp=2), None)]),
    ("all, rwkv7", ALL | parity.RWKV7, [(Layout(tp=3), Layout(dp=2))]),
]
REFUSED = [
    ("cross entropy", parity.SUPERVISED, ONE, "loss.objective other than"),
    ("a part of cross entropy", {"loss.ce_share": 0.25}, ONE, "loss.ce_weight = 0"),
    ("pipeline stages", {}, Layout(pp=2), "layout.pp = 1"),
    ("a cache", {"teacher.cache": "cache", "teacher.signal": "hidden"}, ONE, "no teacher.cache"),
    ("more of a sequence than there is", {"on_policy.prompt_tokens": 25}, ONE, "on_policy.prompt_tokens"),
]


def check(runs, tally):
    for name, settings, layouts in CASES:
        settings = settings | token_sources(runs.root, masked=True)
        one = runs.run("one", settings=settings | {"run.resume": "none"})
        generated = "tokens generated in" in runs.printed
        tally.check(f"on-policy, {name}: says what was generated", [] if generated else [runs.printed])
        for student, teacher in layouts:
            other = runs.run("other", student, teacher, settings | {"run.resume": "none"})
            tally.check(f"on-policy, {name}: student {student}, teacher {teacher or 'colocated'}",
                        *parity.compare(one, other, runs.steps))
    data = runs.run("data", settings={"loss.ce_share": None})
    half = runs.run("half", Layout(tp=2), ONE, HALF)
    apart = results.relative(*map(results.losses, (data, half)))
    tally.check("on-policy: other than the data", not apart > 1e-4, f"losses {apart:.0e}")
    results.rewind(half, runs.out("resumed"), runs.steps // 2)
    resumed = runs.run("resumed", Layout(tp=2), ONE, HALF)
    tally.check("on-policy, resumed: equal to the bit", not results.identical(half, resumed, runs.steps))
    check_stop(runs, tally)
    for name, settings, student, wanted in REFUSED:
        code, printed = runs.attempt("refused", student, None, HALF | settings)
        good = code and wanted in printed and printed.count("wuneng: error") == 1
        tally.check(f"on-policy: {name}: refused", [] if good else [f"exit {code}", printed])


def check_stop(runs, tally):
    """A teacher that has begun micro-batches of steps that the student does not take ends with it."""
    layouts, settings = (Layout(tp=2), Layout(pp=2)), ALL | {"teacher.credits": 6, "optimizer.steps": 30}
    whole = runs.run("whole", *layouts, settings)
    command = runs.command("stopped", *layouts, settings | {"run.checkpoint_every": 1})
    run = subprocess.Popen(command, env=ranks.environment(), stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, start_new_session=True)
    while latest_step(runs.out("stopped")) < 1 and run.poll() is None:
        time.sleep(0.002)
    os.kill(run.pid, signal.SIGUSR1)
    code, step = run.wait(60), latest_step(runs.out("stopped"))
    tally.check("on-policy: a signal stops student and teacher",
                not (code == 75 and step < 30), f"exit {code} after step {step}")
    stopped = runs.run("stopped", *layouts, settings)
    same = results.identical(whole, stopped, 30)
    tally.check("on-policy: stopped and continued is equal to the bit", not same)

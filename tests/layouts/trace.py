"""run.trace_steps: a trace of chosen steps over all ranks, students and teacher, and where time went."""
import collections
import json
import os
import re

from runs import ONE, Layout

STUDENT, TEACHER, STEPS = Layout(dp=2, pp=2), ONE, (2, 3)
KINDS = {"step", "compute", "communication", "waiting", "stream", "saving"}
COVERED = 0.9  # of a step's time, by what is named
MEETING = "waited for data and teacher, and whether to stop"  # a collective call of all student ranks


def check(runs, tally):
    out = runs.run("traced", STUDENT, TEACHER, {"run.trace_steps": list(STEPS), "optimizer.steps": 4,
                                                "run.checkpoint_every": 1})
    with open(os.path.join(out, "trace.json")) as f:
        events = json.load(f)["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    spans = [e for e in events if e["ph"] == "X"]
    students = [pid for pid, name in names.items() if name.startswith("student")]
    tally.check("a trace has a name for every rank", len(names) != STUDENT.ranks + TEACHER.ranks)
    kinds = {e["cat"] for e in spans}
    tally.check("spans of all kinds", kinds != KINDS, f"{sorted(kinds)}")
    tally.check("spans of a thread nest", not_nested(spans))
    tally.check("every rank has every step", [
        f"{names[pid]}: {name}" for pid in names for name in (f"step {s}" for s in STEPS)
        if not any(e["pid"] == pid and e["name"] == name for e in spans)])
    least = min(covered(spans, step) for step in spans if step["cat"] == "step" and step["pid"] in students)
    tally.check("what is named covers a student's steps", not least >= COVERED, f"{least:.3f} at least")
    check_waiting(spans, students, tally)
    check_clocks(spans, students, tally)
    check_lines(runs.printed, spans, students, tally)
    before = os.stat(os.path.join(out, "trace.json")).st_mtime_ns
    runs.run("traced", STUDENT, TEACHER, {"run.trace_steps": list(STEPS), "optimizer.steps": 5})
    tally.check("a run that goes on behind these steps leaves it",
                os.stat(os.path.join(out, "trace.json")).st_mtime_ns != before)
    out = runs.run("untraced", ONE, None, {"optimizer.steps": 2, "optimizer.warmup": 0})
    tally.check("no trace where none is asked for", os.path.exists(os.path.join(out, "trace.json")))


def end(e):
    return e["ts"] + e["dur"]


def not_nested(spans):
    """Pairs of a thread that overlap without one being in the other. Times are in microseconds, rounded."""
    found, threads = [], collections.defaultdict(list)
    for e in spans:
        threads[e["pid"], e["tid"]].append(e)
    for of_thread in threads.values():
        open_spans = []
        for e in sorted(of_thread, key=lambda e: (e["ts"], -e["dur"])):
            while open_spans and end(open_spans[-1]) <= e["ts"] + 1e-2:
                open_spans.pop()
            if open_spans and end(e) > end(open_spans[-1]) + 1e-2:
                found.append(f"{open_spans[-1]} and {e}")
            open_spans.append(e)
    return found


def covered(spans, step):
    """The share of a step's time in which its thread is in another span."""
    total, at = 0, step["ts"]
    inside = [e for e in spans if (e["pid"], e["tid"]) == (step["pid"], step["tid"]) and e is not step
              and step["ts"] <= e["ts"] and end(e) <= end(step)]
    for e in sorted(inside, key=lambda e: e["ts"]):
        total += max(0, end(e) - max(at, e["ts"]))
        at = max(at, end(e))
    return total / step["dur"]


def check_waiting(spans, students, tally):
    """Waits until all ranks are in a collective call are in its span."""
    waits = [[e for e in spans if e["pid"] == pid and e["name"] == "until all ranks are in the call"]
             for pid in students]
    outside = [w for of_rank in waits for w in of_rank if not any(
        e["pid"] == w["pid"] and e["cat"] == "communication" and e["ts"] <= w["ts"] and end(w) <= end(e)
        for e in spans)]
    tally.check("waits for other ranks are in collective calls", outside if all(waits) else ["none"])


def check_clocks(spans, students, tally):
    """No rank leaves a collective call before all have entered it, and nothing is received that has not been
    sent: on one clock."""
    calls = [[e for e in spans if e["pid"] == pid and MEETING in e["name"]] for pid in students]
    tally.check("all ranks are in a collective call at a time", [
        f"call {i}" for i, call in enumerate(zip(*calls)) if max(e["ts"] for e in call) > min(map(end, call))]
        if len({len(x) for x in calls}) == 1 and len(calls[0]) >= len(STEPS) else ["not every rank has it"])
    for kind, there, back in (("activation", 0, 1), ("gradient", 1, 0)):
        def moments(what, stage):
            return [[e for e in spans if e["pid"] == students[dp * STUDENT.pp + stage]
                     and e["name"].startswith(f"{what}_{kind}")] for dp in range(STUDENT.dp)]
        pairs = [(s, r) for sent, received in zip(moments("send", there), moments("receive", back))
                 for s, r in zip(sent, received)]
        tally.check(f"each {kind} arrives after its sending began",
                    [f"{s} {r}" for s, r in pairs if end(r) < s["ts"] or s["name"][4:] != r["name"][7:]]
                    if pairs else ["none"])


def check_lines(printed, spans, students, tally):
    """The lines that say where the time went add up, to what the spans say."""
    for step in STEPS:
        lines = re.findall(rf"^step {step}: ([\d.e-]+) s: (compute .*)$", printed, re.M)
        if len(lines) != 1:
            tally.check(f"a line for step {step}", [f"found {len(lines)}"])
            continue
        shares = [float(x) for x in re.findall(r"([\d.]+)%", lines[0][1])]
        mean = sum(e["dur"] for e in spans
                   if e["pid"] in students and e["name"] == f"step {step}") / len(students) / 1e6
        good = abs(sum(shares) - 100) < 0.5 and abs(float(lines[0][0]) - mean) < 1e-3 * mean
        tally.check(f"a line for step {step}", not good, lines[0][1])

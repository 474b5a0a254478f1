#!/usr/bin/env python3
"""Takes guards out of the sources, against signals, hangs, and wrong models and recipes, one by one, and
shows that a test fails each time.

usage: without_guards.py BUILD [NAME...]

BUILD: a build folder of a checkout that nothing else uses; its sources are changed and put back. NAME: the
guards to try, default all. A trial is a build of a few files and one test; all take some forty minutes.
"""
import os
import re
import subprocess
import sys

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))

# Of the unit tests those that read models and recipes.
SUITES = "ConfigJson*:ConfigFile*:FilesTest*:HuggingFace*:RecipeTest*:Format*"

GUARDS = [  # name, file, what stands there, what takes its place, the test that fails
    ("threads block signals", "runtime/signals.cpp",
     "pthread_sigmask(SIG_BLOCK, &ours, nullptr);", "", "reliability.signals"),
    ("a second signal ends the run", "runtime/signals.cpp",
     "raise(signal);", "", "reliability.signals"),
    ("signals are caught", "runtime/signals.cpp",
     "if (before.sa_handler != SIG_IGN)", "if (before.sa_handler == SIG_ERR)", "reliability.signals"),
    ("the teacher is sent the decision", "launch/train/stop.cpp",
     "send(stop, teacher, kDecision,", "send(stop && false, teacher, kDecision,", "mpi.stop_test.3"),
    ("a teacher's signal reaches the student", "launch/train/stop.cpp",
     "send(requested_(), student, kSignalled,", "send(0, student, kSignalled,", "mpi.stop_test.3"),
    ("no decision for passes after the end", "launch/train/stop.cpp",
     "if (pass + lead_ >= end_) return;", "if (pass < 0) return;", "mpi.stop_test.3"),
    ("the teacher reads decisions of passes before", "launch/train/stop.cpp",
     "pass - lead_ >= first_", "pass - lead_ >= first_ + 1", "mpi.stop_test.3"),
    ("a wait becomes a hang", "runtime/watchdog.cpp",
     "if (awake(s) - oldest.since < s.timeout) continue;", "if (s.timeout < 1e9) continue;", "mpi.hang"),
    ("time in which the process is stopped does not count", "runtime/watchdog.cpp",
     "constexpr double kLongestTick = 2;", "constexpr double kLongestTick = 1e9;", "suspended"),
    ("silent ranks are a hang", "runtime/heartbeat_collector.cpp",
     "now - s->heard > timeout", "now < 0", "mpi.hang"),
    ("collectors take turns", "runtime/heartbeat_collector.cpp",
     "out += kTurn;", "out += 0;", "mpi.hang"),
    ("a collector that reports tells the others", "runtime/heartbeat.cpp",
     "collector_->other_reports();", "{}", "mpi.hang"),
    ("ranks answer before the report", "runtime/heartbeat.cpp",
     "for (const auto& client : clients_) client->beat(hang_);\n      return;", "return;", "mpi.hang"),
    ("ranks that wait in MPI_Finalize end by themselves", "runtime/heartbeat.cpp",
     "if (!finalizing_) std::this_thread", "std::this_thread", "mpi.hang"),
    ("the reporter ends in any case", "runtime/heartbeat_collector.cpp",
     "watchdog::kill_in(kReporting);", "", "mpi.hang"),
    ("layers beyond the config's are refused", "model/hugging_face.cpp",
     "require(beyond.empty(),", "require(true || beyond.empty(),", "unit"),
    ("tensors that the config does not call for are refused", "model/hugging_face.cpp",
     "require(unknown.empty(),", "require(true || unknown.empty(),", "unit"),
    ("a stopped rank is called stopped", "runtime/heartbeat_collector.cpp",
     "&& is_stopped(state.pid);", "&& !is_stopped(state.pid);", "mpi.hang"),
]

REQUIRED = [  # file, a condition of require(), the test that fails without it
    ("model/config.cpp", "value > 0 && value <= most", "unit"),
    ("model/config.cpp", "rope_theta >= 1 && rope_theta <= 1e12f", "unit"),
    ("model/config.cpp", "num_heads % num_kv_heads == 0", "unit"),
    ("model/config.cpp", "head_dim % 2 == 0", "unit"),
    ("model/config_json.cpp", "!r.flag(key, false)", "unit"),
    ("model/sliding_window.cpp", "types[i] == kFull || types[i] == kSliding", "unit"),
    ("model/config_json.cpp", "r.flag(\"is_causal\", true)", "unit"),
    ("model/rope_settings.cpp", "!theta || *theta == value", "unit"),
    ("model/rope_settings.cpp", "has(rope, \"factor\")", "unit"),
    ("model/hugging_face.cpp", "found.count == 0", "unit"),
    ("model/hugging_face.cpp", "entry.shape == shape", "unit"),
    ("model/hugging_face.cpp", "is_float(entry)", "unit"),
    ("model/hugging_face.cpp", "std::memcmp(a.raw(), b.raw(), a.bytes()) == 0", "unit"),
    ("launch/commands/model_export.cpp", "!is_other_weights(name)", "program.inputs"),
    ("launch/commands/model_export.cpp", "!is_exported(name) || is_export", "program.inputs"),
    ("launch/train/recipe_checks.cpp", "layout.pp <= layers", "unit"),
    ("launch/train/recipe_checks.cpp", "r.rows() <= kMostRows", "unit"),
    ("launch/train/recipe_checks.cpp", "r.learning_rate.warmup <= r.steps()", "unit"),
    ("launch/train/recipe_checks.cpp", "r.learning_rate.floor <= r.learning_rate.peak", "unit"),
    ("launch/train/recipe_checks.cpp", "fs::is_directory(at, error)", "unit"),
    ("launch/train/context_length.cpp", "positions == 0 || t.seq_len <= positions", "unit"),
    ("launch/train/context_length.cpp", "teacher == 0 || t.seq_len <= teacher", "unit"),
    ("runtime/config.cpp", "!json_too_deep(text)", "unit"),
    ("runtime/config.cpp", "equals != std::string::npos && equals > 0", "unit"),
    ("runtime/config.cpp", "problems.empty()", "unit"),
]
GUARDS += [(f"{file}: {condition}", file, condition, f"true || ({condition})", test)
           for file, condition, test in REQUIRED]


def run(*command, **environment):
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def test(build, name):
    if name == "suspended":  # of the long form alone
        program, ends = os.path.join(build, "launch", "wuneng"), os.path.join(ROOT, "tests", "reliability")
        return run(sys.executable, os.path.join(ends, "ends.py"), program, "stops", "0")
    return run("ctest", "--test-dir", build, "-R", f"^{re.escape(name)}$", "--output-on-failure",
               **({"GTEST_FILTER": SUITES} if name == "unit" else {}))


def trial(build, name, file, before, after, test_name):
    path = os.path.join(ROOT, file)
    with open(path) as f:
        source = f.read()
    if source.count(before) != 1:
        return f"{file}: expected one {before!r}, found {source.count(before)}"
    try:
        with open(path, "w") as f:
            f.write(source.replace(before, after))
        program = "wuneng" if test_name == "suspended" else "needs." + test_name
        built = run("cmake", "--build", build, "--target", program)
        if built.returncode:
            return "does not build:\n" + built.stdout[-2000:]
        return None if test(build, test_name).returncode else f"{test_name} passed"
    finally:
        with open(path, "w") as f:
            f.write(source)


def main():
    build, names = os.path.abspath(sys.argv[1]), sys.argv[2:]
    problems = 0
    for name, *guard in GUARDS:
        if names and name not in names:
            continue
        problem = trial(build, name, *guard)
        problems += problem is not None
        print(f"{'FAILED' if problem else 'ok    '} without: {name}{': ' + problem if problem else ''}",
              flush=True)
    print(f"{problems} guards are not missed by their tests")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

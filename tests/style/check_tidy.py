#!/usr/bin/python3
"""clang-tidy with the checks of .clang-tidy, over the two folders that deal with files, processes and foreign
input.

usage: check_tidy.py CHECKOUT BUILD

All files of a folder are checked as one: most of the time goes into headers. The other folders hold code that
clang 14 does not compile (structured bindings that a lambda captures).
"""
import concurrent.futures
import json
import os
import shlex
import subprocess
import sys
import tempfile

FOLDERS = ("runtime", "data/text", "data/tokenizer", "data/token_files", "data/batches")
ALONE = {"data/batches/token_corpus.cpp", "data/text/text_source.cpp"}  # names in common with other files


def flags(build):
    """What our C++ is compiled with, without what is GCC's."""
    with open(os.path.join(build, "compile_commands.json")) as f:
        entry = next(e for e in json.load(f) if "wuneng_data.dir" in e["command"])
    words, kept = shlex.split(entry["command"]), ["-std=c++20"]
    for i, word in enumerate(words):
        if word.startswith(("-I", "-D")):
            kept.append(word)
        elif word == "-isystem":
            kept += [word, words[i + 1]]
    return kept


def check(root, arguments, name, sources):
    """Returns clang-tidy's findings, empty where there are none."""
    with tempfile.NamedTemporaryFile("w", suffix=".cpp", prefix=name.replace("/", "_")) as unit:
        unit.writelines(f'#include "{os.path.join(root, source)}"\n' for source in sources)
        unit.flush()
        config = "--config-file=" + os.path.join(root, ".clang-tidy")
        done = subprocess.run(["clang-tidy", "--quiet", config, unit.name, "--", *arguments],
                              capture_output=True, text=True)
    return done.stdout or (done.stderr if done.returncode else "")


def main():
    root, build = map(os.path.abspath, sys.argv[1:3])
    units = {name: [] for name in FOLDERS}
    for name in FOLDERS:
        for file in sorted(os.listdir(os.path.join(root, name))):
            source = f"{name}/{file}"
            if file.endswith(".cpp"):
                units.setdefault(source if source in ALONE else name, []).append(source)
    arguments = flags(build)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda unit: check(root, arguments, *unit), units.items()))
    failed = sum(map(bool, found))
    print(*filter(None, found), sep="\n")
    print(f"{len(found) - failed} passed, {failed} failed")
    return 1 if failed or not found else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/python3
"""Layout of files: C++ as clang-format writes it (.clang-format), and at most 110 columns in everything that
people read.

usage: check_format.py CHECKOUT
"""
import os
import subprocess
import sys

COLUMNS = 110
CXX = (".h", ".cpp", ".cu")
TEXT = (".md", ".toml", ".py", ".sh", ".cmake", ".env", ".json", ".supp", "CMakeLists.txt", ".clang-format",
        ".clang-tidy", ".editorconfig")
GENERATED = ("tests/golden", "tests/fuzz/found", "build", "out", ".git")


def files(root):
    for directory, folders, names in os.walk(root):
        where = os.path.relpath(directory, root)
        folders[:] = sorted(d for d in folders if os.path.normpath(os.path.join(where, d)) not in GENERATED)
        for name in sorted(names):
            yield os.path.normpath(os.path.join(where, name))


def is_script(path):
    with open(path, "rb") as f:
        return f.read(2) == b"#!"


def long_lines(root, name):
    with open(os.path.join(root, name), encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            columns = len(line.rstrip("\n"))
            table = name.endswith(".md") and line.startswith("|")  # its rows cannot be broken
            if columns > COLUMNS and not table:
                yield f"{name}:{number}: {columns} columns, expected at most {COLUMNS}"


def main():
    root = sys.argv[1]
    every = list(files(root))
    sources = [name for name in every if name.endswith(CXX)]
    done = subprocess.run(["clang-format", "--dry-run", "-Werror", *sources], cwd=root,
                          capture_output=True, text=True)
    unformatted = sorted({line.split(":")[0] for line in done.stderr.splitlines() if "error:" in line})
    problems = [f"{name}: expected what clang-format -i makes of it" for name in unformatted]
    if done.returncode and not problems:
        problems.append(f"clang-format: exit {done.returncode}: {done.stderr}")
    read = [name for name in every if name.endswith((*CXX, *TEXT)) or is_script(os.path.join(root, name))]
    for name in read:
        problems += long_lines(root, name)
    print(*problems, sep="\n")
    print(f"{len(read)} files read, {len(problems)} problems")
    return 1 if problems or not sources else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""The house rules that a program can check: includes point down only, files stay short, nothing is left
unfinished.

usage: check_includes.py CHECKOUT
"""
import os
import re
import sys

MAY_INCLUDE = {"runtime": set(), "kernels": {"runtime"}, "parallel": {"kernels", "runtime"},
               "data": {"runtime"}, "model": {"parallel", "kernels", "runtime"},
               "launch": {"model", "data", "parallel", "kernels", "runtime"},
               "tests": {"launch", "model", "data", "parallel", "kernels", "runtime"}}
LONGEST = 500
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")


def main():
    root, problems, files = sys.argv[1], [], 0
    for folder, allowed in MAY_INCLUDE.items():
        for directory, _, names in os.walk(os.path.join(root, folder)):
            for name in names:
                if not name.endswith((".h", ".cpp", ".cu", ".cuh", ".py")):
                    continue
                files += 1
                path = os.path.join(directory, name)
                with open(path) as f:
                    lines = f.read().split("\n")
                where = os.path.relpath(path, root)
                if len(lines) > LONGEST:
                    problems.append(f"{where}: {len(lines)} lines, expected at most {LONGEST}")
                for number, line in enumerate(lines, 1):
                    found = re.match(r'\s*#include "([a-z]+)/', line)
                    if found and found[1] != folder and found[1] not in allowed:
                        problems.append(f"{where}:{number}: {folder} must not include {found[1]} "
                                        f"(see {folder}/CMakeLists.txt)")
                    if UNFINISHED.search(line):
                        problems.append(f"{where}:{number}: unfinished: {line.strip()}")
    print(*problems, sep="\n")
    print(f"{files - len(problems)} passed, {len(problems)} failed")
    return 1 if problems or not files else 0


if __name__ == "__main__":
    sys.exit(main())

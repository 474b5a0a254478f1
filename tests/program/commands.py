"""How the checks of this folder call the program: the first argument of the script that imports this."""
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path += [os.path.join(HERE, ".."), os.path.join(HERE, "..", "reference")]
from checks import run  # noqa: E402, F401

PROGRAM = os.path.abspath(sys.argv[1])
GOLDEN = os.path.join(HERE, "..", "golden")


def wuneng(*arguments, **how):
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=120, **how)


def ok(*arguments):
    done = wuneng(*arguments)
    if done.returncode != 0:
        raise RuntimeError(f"wuneng {' '.join(arguments)}: exit {done.returncode}: {done.stderr}")
    return done.stdout


def refused(done, *texts):
    """Whether a command failed and named all the texts."""
    return done.returncode != 0 and all(text in done.stderr for text in texts)

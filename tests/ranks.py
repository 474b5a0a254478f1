"""How tests start ranks: the environment of launch/mpi.env and tests/ranks.env, and mpirun's command line."""
import os

HERE = os.path.dirname(os.path.abspath(__file__))


def environment(**more):
    """This process's environment with the settings of both files and `more`."""
    settings = dict(os.environ)
    for path in ("../launch/mpi.env", "ranks.env"):
        with open(os.path.join(HERE, path)) as f:
            lines = [line.strip() for line in f if line.strip() and not line.startswith("#")]
        settings.update(line.split("=", 1) for line in lines)
    return settings | more


def command(ranks, *program):
    """One rank runs without mpirun."""
    return list(program) if ranks == 1 else ["mpirun", "-n", str(ranks), *program]

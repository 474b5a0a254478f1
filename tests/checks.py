"""How scripts of tests run their checks: generators of (name, whether it holds)."""
import itertools
import tempfile


def run(*parts):
    """Prints what the parts, functions of a scratch folder, find; the exit code."""
    passed = failed = 0
    with tempfile.TemporaryDirectory() as root:
        for name, good in itertools.chain.from_iterable(part(root) for part in parts):
            print(("ok     " if good else "FAILED ") + name, flush=True)
            passed += bool(good)
            failed += not good
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0

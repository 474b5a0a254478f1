"""Counts checks and prints a line for each."""


class Tally:
    passed = failed = 0

    def check(self, name, failures, note=""):
        """failures: texts, or True where a single condition failed; empty or False: the check passed."""
        texts = [] if isinstance(failures, bool) else failures
        self.failed += bool(failures)
        self.passed += not failures
        print(f"{'FAILED' if failures else 'ok    '} {name}{': ' + note if note else ''}",
              *texts, sep="\n    ", flush=True)

    def finish(self):
        """The last line of the output, and the exit code."""
        print(f"{self.passed} passed, {self.failed} failed")
        return 1 if self.failed or not self.passed else 0

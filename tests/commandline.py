"""`farcluss` as a user calls it: in this process, or in one of its own."""

import contextlib
import io
import os
import subprocess
import sys
from typing import NamedTuple
from unittest.mock import patch

from farcluss.cli import main


class Result(NamedTuple):
    """What is left of a command: its exit code, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """The text of a refusal, checked to be one: exit code 1 or 2, one to three lines, no traceback, named Error."""
        assert self.code in (1, 2), self
        lines = self.err.strip().splitlines()
        assert 1 <= len(lines) <= 3, self.err
        assert lines[0].startswith("Error: "), self.err
        assert "Traceback" not in self.out + self.err
        return self.err


def cli(*arguments: object) -> Result:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    words = ["farcluss", *map(str, arguments)]
    with patch.object(sys, "argv", words), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    assert code is None or isinstance(code, int)
    return Result(code or 0, out.getvalue(), err.getvalue())


def python(code: str, *arguments: object, cwd: object = None) -> Result:
    """Run Python code in a process of its own, with `arguments` in `sys.argv[1:]`."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return Result(done.returncode, done.stdout, done.stderr)

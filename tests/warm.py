"""Python processes that have imported everything already, for tests that are not about imports or launchers.

Importing PyTorch and what stands on it takes longer than most things that a test lets a process do. One process imports
it all when the first is asked for, and every other is forked from it: it shares nothing with the tests but files.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
from functools import cache
from importlib import import_module
from pathlib import Path

from commandline import Result

IMPORTS = ("farcluss.training.engine", "kornia", "timm")
PATIENCE = 600
"""Seconds after which a process is ended."""


def python(code: str, *arguments: object, cwd: object = None, **environment: str) -> Result:
    """Run Python code in a process of its own, with `arguments` in `sys.argv[1:]` and further variables."""
    server = _server()
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        job = {
            "code": code,
            "arguments": [str(argument) for argument in arguments],
            "cwd": str(cwd or os.getcwd()),
            "environment": dict(os.environ) | {"OMP_NUM_THREADS": "1"} | environment,
            "output": [str(out), str(err)],
        }
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        return Result(int(server.stdout.readline()), out.read_text(), err.read_text())


@cache
def _server() -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    atexit.register(server.communicate)  # it ends with its input
    return server


def _serve() -> None:
    for name in IMPORTS:
        import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            return _become(**json.loads(line))  # and end as any process does
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become(code: str, arguments: list[str], cwd: str, environment: dict[str, str], output: list[str]) -> None:
    signal.alarm(PATIENCE)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate([os.devnull, *output]):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    _serve()

"""The side of `trials.py` and `fuzz.py`: a server of forked commands, what came of each, folders before and after."""

import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ended:
    """How a command ended: `code` is None where it hung and was killed, negative where a signal ended it."""

    code: int | None
    out: str
    err: str
    seconds: float

    @property
    def text(self) -> str:
        """All that it printed."""
        return self.out + self.err


class Forks:
    """A long-lived process of the Python to be tried, which forks one for each command."""

    def __init__(self, python: str = sys.executable) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="forks-")
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
        command = [python, "-P", str(Path(__file__).with_name("fork_server.py"))]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment, text=True
        )
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            raise SystemExit(f"{python} has no farcluss that can be started.")

    def run(self, argv: list[str], cwd: Path, limit: float = 60.0, **more: Any) -> Ended:
        """Run a command in `cwd`; `more` is what `fork_server.py` knows: env, limits, umask, uid, stdout, encoding."""
        out, err = (Path(self.folder.name) / name for name in ("out", "err"))
        out.write_bytes(b"")
        request = {"argv": argv, "cwd": str(cwd), "out": str(out), "err": str(err), "limit": limit} | more
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        reply = json.loads(self.process.stdout.readline())
        out_text, err_text = (file.read_text("utf-8", "replace")[:100_000] for file in (out, err))
        return Ended(reply["code"], out_text, err_text, reply["seconds"])

    def close(self) -> None:
        """End the server."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()


def placeless(text: str, folder: Path) -> str:
    """What a command said, without where this machine keeps the folder and its packages."""
    return re.sub(
        r"(/[\w.+-]+)+/(?=site-packages/|farcluss/|farcluss_\w+/|benchmarks/)", "", text.replace(str(folder), ".")
    )


def tree(folder: Path) -> dict[str, str]:
    """A checksum, or what else it is, of all that lies below a folder, by name. Links are not followed."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in folders + files:
            path = os.path.join(place, name)
            mode = os.lstat(path).st_mode
            kind = f"{stat.S_IFMT(mode):o}"
            if stat.S_ISREG(mode):
                with open(path, "rb") as file:
                    kind = hashlib.blake2b(file.read(), digest_size=12).hexdigest()
            elif stat.S_ISLNK(mode):
                kind = os.readlink(path)
            found[os.path.relpath(path, folder)] = kind
    return found


def touched(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Names of what is not any more what it was."""
    return sorted(name for name, kind in before.items() if after.get(name) != kind)

"""The lock on a run directory: one process at a time, and none in the way that has died."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import cli
from registered import registered
from tiny_network import TinyNetwork
from tiny_recipe import tiny_recipe

from farcluss.errors import RunError
from farcluss.runs.lock import Lock

HOLDER = """
import os, sys
from pathlib import Path
from farcluss.runs.lock import Lock
lock = Lock(Path(sys.argv[1]))
remark = lock.acquire()
child = os.fork() if "fork" in sys.argv else None
if child == 0:
    # As a loader's worker does that outlives the process which started it.
    os.read(0, 1)
    print("the child ends", flush=True)
    os._exit(0)
print(child or remark or "held", flush=True)
if child:
    os.waitpid(child, 0)
sys.stdin.buffer.raw.read(1)
lock.release()
print("released", flush=True)
sys.stdin.buffer.raw.read(1)
"""
"""Holds a lock until it reads a byte; with `fork`, a child ends at the first byte and the process at the second."""


class Holder:
    """Another process that holds a lock."""

    def __init__(self, path: Path, *words: str) -> None:
        command = [sys.executable, "-c", HOLDER, str(path), *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.pid, self.said = self.process.pid, self.line()

    def line(self) -> str:
        return self.process.stdout.readline().strip()

    def go_on(self) -> str:
        """Let it do the next thing, and hear what it says."""
        self.process.stdin.write(".")
        self.process.stdin.flush()
        return self.line()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "lock"


@pytest.fixture
def hold():
    """Starts processes that hold a lock, and ends them all."""
    started = []

    def start(path: Path, *words: str) -> Holder:
        started.append(Holder(path, *words))
        return started[-1]

    yield start
    for holder in started:
        holder.kill()
        holder.process.stdin.close()
        holder.process.stdout.close()


def refused(path: Path) -> str:
    with pytest.raises(RunError) as caught:
        Lock(path).acquire()
    text = str(caught.value)
    assert str(path.parent) in text and "--output" in text and len(text.splitlines()) <= 3
    return text


def free(path: Path) -> str:
    """The message with which the lock is acquired."""
    lock = Lock(path)
    remark = lock.acquire()
    lock.release()
    return remark


def test_another_process_is_refused_and_told_who_is_there(path, hold):
    holder = hold(path)
    content = path.read_bytes()
    for _ in range(2):
        assert f"in use by process {holder.pid} on {socket.gethostname()}, since " in refused(path)
    assert path.read_bytes() == content
    facts = json.loads(content)
    assert (facts["pid"], facts["host"]) == (holder.pid, socket.gethostname())


def test_release_lets_the_next_one_in_and_leaves_no_content(path, hold):
    holder = hold(path)
    assert holder.said == "held"
    assert holder.go_on() == "released"
    assert path.read_bytes() == b""
    second = hold(path)  # while the first process is still there
    assert second.said == "held"
    assert f"process {second.pid} on" in refused(path)


def test_a_killed_process_holds_nothing_and_is_named(path, hold):
    holder = hold(path)
    holder.kill()
    second = hold(path)
    assert second.said.startswith(f"process {holder.pid} on {socket.gethostname()}, since ")
    assert "ended without unlocking" in second.said and str(path.parent) in second.said
    assert f"process {second.pid} on" in refused(path)
    assert second.go_on() == "released"
    assert free(path) == ""


def test_a_child_that_outlives_its_parent_holds_nothing(path, hold):
    holder = hold(path, "fork")
    assert int(holder.said) != holder.pid
    refused(path)
    holder.kill()
    assert f"process {holder.pid} on" in free(path)
    assert holder.go_on() == "the child ends", "it should have been there all the time"


def test_a_child_that_ends_takes_nothing_away(path, hold):
    holder = hold(path, "fork")
    assert holder.go_on() == "the child ends"
    assert f"process {holder.pid} on" in refused(path)
    assert holder.go_on() == "released"
    assert free(path) == ""


GARBAGE = [
    b"garbage",
    b'{"pid": 1, "ho',
    b'{"pid": 1}',
    b"[]",
    b"null",
    b"7",
    b"\0" * 9,
    b"\xff\xfe\x80",
    b"a\nb\nc\nd",
]


@pytest.mark.parametrize("content", GARBAGE)
def test_a_damaged_file_stops_nobody(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    lock = Lock(path)
    assert len(lock.acquire().splitlines()) <= 1
    lock.release()
    assert path.read_bytes() == b""


@pytest.mark.parametrize("content", [b"", *GARBAGE])
def test_a_lock_is_one_whatever_its_file_says(path, hold, content):
    hold(path)
    path.write_bytes(content)
    assert "in use by another process." in refused(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A recipe and its run."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.toml").write_text(tiny_recipe(steps=2))
    with registered("network", "tiny", TinyNetwork):
        assert cli("run", folder / "tiny.toml", "-o", folder / "run").code == 0
        yield folder


@pytest.mark.parametrize("option", ["--overwrite", "--resume", "--resume=auto", "--resume=step-00000002.pt"])
def test_a_run_directory_in_use_is_left_as_it_is(trained, hold, option):
    run = trained / "run"
    holder = hold(run / "lock")
    option = option.replace("step", f"{run / 'checkpoints'}/step")

    def snapshot():
        files = (path for path in run.rglob("*"))
        return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in files}

    before = snapshot()
    result = cli("run", trained / "tiny.toml", "-o", run, option, "--set", "train.log_every=2")
    assert result.code == 1
    assert f"{run} is in use by process {holder.pid} on {socket.gethostname()}" in result.refusal
    assert snapshot() == before
    assert holder.go_on() == "released"
    assert cli("run", trained / "tiny.toml", "-o", run, option).code == 0


def test_a_start_that_fails_leaves_no_lock_behind(trained, tmp_path):
    run = tmp_path / "run"
    (run / "recipe.toml").mkdir(parents=True)  # where a file is to be written
    assert str(run) in cli("run", trained / "tiny.toml", "-o", run, "--overwrite").refusal
    assert free(run / "lock") == ""


def test_a_lock_that_is_a_link_is_refused_and_what_it_names_stays(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").symlink_to("../notes.txt")
    with pytest.raises(RunError, match=r"lock is a link, to .*notes.txt"):
        Lock(tmp_path / "run" / "lock").acquire()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    (tmp_path / "run" / "lock").unlink()
    (tmp_path / "run" / "lock").symlink_to("lock")
    with pytest.raises(RunError, match="lock is a link"):  # in a circle
        Lock(tmp_path / "run" / "lock").acquire()

"""Checkpoints that are damaged, cut off or not written: which are taken, what is said, and that none is lost."""

import errno
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
import warm
from commandline import cli
from registered import registered
from tiny_network import TinyNetwork
from tiny_recipe import tiny_recipe

from farcluss.errors import RunError
from farcluss.runs import atomic, checkpoints


def state_of(step: int, size: int = 40) -> dict:
    """A state like that of a run: tensors of several kinds, one a view, among plain values."""
    whole = torch.randn(size, 6, generator=torch.Generator().manual_seed(step))
    return {
        "student": {"weight": whole.T, "half": whole[:3].bfloat16(), "count": torch.tensor(step)},
        "optimizer": {"state": {0: {"momentum": whole[::2]}}, "groups": [{"lr": 0.25, "params": [0, 1]}]},
    }


def save(folder: Path, step: int, keep: int = 9, state: dict | None = None) -> Path:
    path = folder / f"step-{step:08d}.pt"
    checkpoints.save(path, step, state or state_of(step), {"step": step}, {"train.lr": 0.5}, keep)
    return path


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(path: Path) -> str:
    """The text with which `read` refuses a file, checked to be short and to name it."""
    with pytest.raises(RunError) as caught:
        checkpoints.read(path)
    text = str(caught.value)
    assert str(path) in text and 1 <= len(text.splitlines()) <= 3
    return text


def assert_same(one, two) -> None:
    torch.testing.assert_close(one, two, rtol=0, atol=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder of three whole checkpoints."""
    for step in (1, 2, 3):
        save(tmp_path / "run" / "checkpoints", step)
    return tmp_path / "run" / "checkpoints"


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


class TestAWholeOne:
    @pytest.mark.parametrize("size", [1, 40, 50_000])
    def test_comes_back_as_it_was_beside_a_manifest(self, tmp_path, size):
        path = save(tmp_path, 7, state=state_of(7, size))
        found, content = checkpoints.read(path), path.read_bytes()
        assert_same(found.state, state_of(7, size))
        assert (found.path, found.notes) == (path, ())
        assert json.loads(path.with_suffix(".json").read_text()) == {
            "step": 7,
            "sha256": hashlib.sha256(content).hexdigest(),
            "size": len(content),
            "progress": {"step": 7},
            "fingerprint": {"train.lr": 0.5},
        }

    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_in_it_is_refused_and_not_run(self, tmp_path, monkeypatch, zipped):
        monkeypatch.chdir(tmp_path)
        torch.save({"student": Evil()}, path := save(tmp_path, 1), _use_new_zipfile_serialization=zipped)
        facts = json.loads(path.with_suffix(".json").read_text())
        facts |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": path.stat().st_size}
        path.with_suffix(".json").write_text(json.dumps(facts))
        assert "cannot be read" in refused(path)
        assert not (tmp_path / "ran").exists()
        torch.load(path, weights_only=False)
        assert (tmp_path / "ran").exists(), "the file is harmless, and so the test"


def cut(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


def flip(path: Path, position: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


DAMAGES = {
    "cut": lambda path: cut(path, path.stat().st_size // 2),
    "bit flipped": lambda path: flip(path, path.stat().st_size // 2, 3),
    "manifest missing": lambda path: path.with_suffix(".json").unlink(),
    "another's manifest": lambda path: shutil.copy(path.with_name("step-00000001.json"), path.with_suffix(".json")),
}


class TestDamage:
    def test_any_flipped_bit_is_refused(self, tmp_path):
        path, rng = save(tmp_path, 1), random.Random(0)
        size = path.stat().st_size
        for position in [0, size - 1, *(rng.randrange(size) for _ in range(200))]:
            flip(path, position, bit := rng.randrange(8))
            assert "checksum" in refused(path), (position, bit)
            flip(path, position, bit)
        checkpoints.read(path)

    def test_any_other_length_is_refused(self, tmp_path):
        path, rng = save(tmp_path, 1), random.Random(0)
        whole = path.read_bytes()
        for length in [0, 1, len(whole) - 1, len(whole) + 1, *(rng.randrange(len(whole)) for _ in range(60))]:
            path.write_bytes((whole + b"\0")[:length])
            assert f"{length} of {len(whole)} bytes" in refused(path)

    @pytest.mark.parametrize(
        "content",
        [
            *(b"", b'{"step": 3, "sha2', b"\0\xff\xfe\x80", b"[1, 2]", b"null", b"3", b"{}"),
            *({key: "gone"} for key in ("step", "sha256", "size", "progress", "fingerprint")),
            *({"step": 1.5}, {"step": None}, {"sha256": 3}, {"size": "many"}, {"progress": [1]}, {"fingerprint": None}),
        ],
        ids=str,
    )
    def test_a_manifest_that_is_none(self, tmp_path, content):
        path = save(tmp_path, 1)
        if isinstance(content, dict):
            facts = json.loads(path.with_suffix(".json").read_text()) | content
            content = json.dumps({key: value for key, value in facts.items() if value != "gone"}).encode()
        path.with_suffix(".json").write_bytes(content)
        assert "manifest step-00000001.json cannot be read" in refused(path)

    def test_a_disk_that_fails_to_read(self, folder, monkeypatch):
        def fail(*_):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(hashlib, "file_digest", fail)
        assert os.strerror(errno.EIO) in refused(folder / "step-00000003.pt")


class TestTheNewest:
    @pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
    def test_gives_way_to_the_one_before(self, folder, damage):
        assert checkpoints.read_newest(folder)[::3] == (folder / "step-00000003.pt", ())
        damage(folder / "step-00000003.pt")
        found, newer = checkpoints.read_newest(folder), refused(folder / "step-00000003.pt")
        assert_same(found.state, state_of(2))
        assert found.notes == (newer, f"Resuming from the previous one, {folder / 'step-00000002.pt'}.")
        damage(folder / "step-00000002.pt")
        found = checkpoints.read_newest(folder)
        assert (found.manifest.step, found.notes[:2]) == (1, (newer, refused(folder / "step-00000002.pt")))

    def test_is_missed_where_none_is_whole(self, folder):
        for path in checkpoints.paths(folder):
            cut(path, 9)
        with pytest.raises(RunError) as caught:
            checkpoints.read_newest(folder)
        assert str(caught.value) == f"{folder.parent} has no intact checkpoint: {refused(folder / 'step-00000003.pt')}"
        shutil.rmtree(folder)
        with pytest.raises(RunError, match=f"^{folder.parent} has no checkpoint"):
            checkpoints.read_newest(folder)


class TestPruning:
    @pytest.mark.parametrize("keep", [1, 2, 3, 9])
    def test_the_newest_are_kept_with_their_manifests(self, tmp_path, keep):
        for step in range(1, 6):
            save(tmp_path, step, keep)
            kept = range(max(1, step - keep + 1), step + 1)
            names = {f"step-{n:08d}{end}" for n in kept for end in (".pt", ".json")}
            assert {path.name for path in tmp_path.iterdir()} == names

    @pytest.mark.parametrize("end", [".pt", ".json"])
    def test_nothing_is_removed_before_the_new_one_is_whole(self, folder, monkeypatch, end):
        before, replace = snapshot(folder), os.replace

        def fail(source, target):
            if str(target).endswith(f"step-00000004{end}"):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            replace(source, target)

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(RunError, match=os.strerror(errno.EIO)):
            save(folder, 4, keep=1)
        assert before.items() <= snapshot(folder).items()
        assert not list(folder.glob(".*"))
        assert checkpoints.read_newest(folder).manifest.step == 3

    @pytest.mark.parametrize("damaged", [False, True])
    def test_the_new_one_stays_although_a_later_step_is_there(self, folder, damaged):
        if damaged:
            DAMAGES["bit flipped"](folder / "step-00000003.pt")
        path = save(folder, 2, keep=1)  # as a run does that goes on from an earlier checkpoint
        assert_same(checkpoints.read(path).state, state_of(2))


WRITER = """
import sys
from pathlib import Path
from farcluss.runs.atomic import atomic_file
with atomic_file(Path(sys.argv[1])) as file:
    file.write(b"new" * 9999)
    file.flush()
    print("half", flush=True)
    sys.stdin.read()
"""


class TestAtomicFiles:
    @pytest.mark.parametrize("step", [3, 4])
    def test_a_killed_writer(self, folder, step):
        before, command = snapshot(folder), [sys.executable, "-c", WRITER, str(folder / f"step-{step:08d}.pt")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
            assert writer.stdout.readline() == b"half\n"
            writer.kill()
        assert before.items() <= snapshot(folder).items()
        (left,) = snapshot(folder).keys() - before.keys()
        assert left.stat().st_size > 0
        assert [path.name for path in checkpoints.paths(folder)] == [f"step-{n:08d}.pt" for n in (1, 2, 3)]
        assert checkpoints.read_newest(folder).notes == ()
        for name in (".hidden", "my.part"):
            (folder / name).write_text("of somebody else")
        atomic.remove_unfinished(folder.parent)  # whose folders may hold other runs
        assert left.exists()
        atomic.remove_unfinished(folder)
        assert set(snapshot(folder)) == {*before, folder / ".hidden", folder / "my.part"}

    def test_a_writer_that_is_interrupted(self, tmp_path):
        (tmp_path / "file").write_bytes(b"old")
        with pytest.raises(KeyboardInterrupt), atomic.atomic_file(tmp_path / "file") as file:
            file.write(b"new")
            raise KeyboardInterrupt
        assert snapshot(tmp_path) == {tmp_path / "file": b"old"}

    def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(self, tmp_path, monkeypatch):
        done, replace = [], os.replace
        monkeypatch.setattr(os, "fsync", lambda handle: done.append(os.fstat(handle)))
        monkeypatch.setattr(os, "replace", lambda *names: done.append("replace") or replace(*names))
        atomic.write_atomically(tmp_path / "file", b"12345")
        assert (done[0].st_size, done[1], done[2].st_ino) == (5, "replace", tmp_path.stat().st_ino)


def without_room(file, room: int) -> MagicMock:
    """That file, on a disk that has room for so many bytes of it."""
    sizes: list[int] = []

    def write(content):
        sizes.append(len(content))
        if sum(sizes) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return file.write(content)

    shell = MagicMock(wraps=file)
    shell.__enter__.return_value, shell.__exit__.side_effect, shell.write.side_effect = shell, file.__exit__, write
    return shell


@pytest.fixture
def fill(monkeypatch):
    """Fills the disk for files whose names contain a text, after so many bytes; `fill.empty()` makes room again."""
    real_open, full = io.open, {}

    def opened(path, mode="r", *arguments, **options):
        name = "" if isinstance(path, int) else os.path.basename(path)
        file = real_open(path, mode, *arguments, **options)
        rooms = [room for text, room in full.items() if text in name and set(mode) & set("wax+")]
        return without_room(file, rooms[0]) if rooms else file

    def start(text: str, room: int = 0) -> None:
        full[text] = room

    start.empty = full.clear
    for place in ("io.open", "builtins.open"):
        monkeypatch.setattr(place, opened)
    return start


class TestAFullDisk:
    @pytest.mark.parametrize("share", [0, 0.5, 0.999])
    @pytest.mark.parametrize("size", [10, 2**20])
    def test_a_save_says_what_is_needed_and_what_is_left(self, folder, fill, monkeypatch, share, size):
        before, usage = snapshot(folder), shutil.disk_usage(folder)
        state = {"student": {"a": torch.zeros(size // 2)}, "more": [1, (torch.zeros(size - size // 2),)]}
        torch.save(state, whole := io.BytesIO())
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1234 * 2**20 + 2**19))
        fill("step-00000004.pt", int(share * len(whole.getvalue())))
        with pytest.raises(RunError, match=os.strerror(errno.ENOSPC)) as caught:
            save(folder, 4, keep=1, state=state)
        text = str(caught.value)
        assert len(text.splitlines()) <= 3 and f"{folder / 'step-00000004.pt'} cannot be written" in text
        assert f"needs about {4 * size / 2**20:.1f} MiB" in text and "1,234.5 MiB are free" in text
        assert f"{folder / 'step-00000003.pt'} is intact" in text and "--resume" in text
        assert snapshot(folder) == before

    @pytest.mark.parametrize("damage", ["bit flipped", "manifest missing"])
    def test_what_is_called_whole_is_whole(self, folder, fill, damage):
        DAMAGES[damage](folder / "step-00000003.pt")
        fill("step-00000004.pt")
        with pytest.raises(RunError) as caught:
            save(folder, 4)
        assert f"{folder / 'step-00000002.pt'} is intact" in str(caught.value)


LIMITED = """
import resource, signal
from farcluss.runs import checkpoints
from farcluss.cli import main
from farcluss.plugins import registry
from tiny_network import TinyNetwork
registry.register("network", "tiny", TinyNetwork)
original = checkpoints.save
def save(path, *rest):
    original(path, *rest)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, -1))
checkpoints.save = save
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
main()
"""
"""After the first checkpoint, the system lets no file grow beyond half of it."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nothing has disturbed, with checkpoints at steps 2 and 4, and evaluations at 3 and 4."""
    recipe = tmp_path_factory.mktemp("whole") / "tiny.toml"
    recipe.write_text(tiny_recipe(steps=4, network="width = 256"))  # checkpoints outgrow all else
    with registered("network", "tiny", TinyNetwork):
        assert cli("run", recipe, "-o", recipe.parent / "run").code == 0
        yield recipe.parent / "run"


class TestARunOnAFullDisk:
    @staticmethod
    def assert_goes_on(whole: Path, run: Path, saved: int) -> None:
        """The last checkpoint, if there is one, is whole, and the run goes on to the same result."""
        if saved:
            found = checkpoints.read_newest(run / "checkpoints")
            assert_same(found.state, checkpoints.read(whole / "checkpoints" / found.path.name).state)
            assert found.manifest.step == saved
        again = cli("run", whole.parent / "tiny.toml", "-o", run, "--resume", "newest" if saved else "auto")
        assert again.code == 0, again
        assert_same(*(checkpoints.read(each / "checkpoints" / "step-00000004.pt").state for each in (run, whole)))
        for name in ("weights/last.safetensors", "weights/best.safetensors"):
            assert (run / name).read_bytes() == (whole / name).read_bytes()
        assert not list(run.rglob("*.part"))

    def test_files_that_the_system_lets_grow_no_more(self, whole, tmp_path):
        run = tmp_path / "run"
        refusal = warm.python(LIMITED, "run", whole.parent / "tiny.toml", "-o", run).refusal
        assert f"{run / 'checkpoints' / 'step-00000004.pt'} cannot be written" in refusal
        assert os.strerror(errno.EFBIG) in refusal and "MiB are free" in refusal
        assert f"{run / 'checkpoints' / 'step-00000002.pt'} is intact" in refusal
        self.assert_goes_on(whole, run, 2)

    @pytest.mark.parametrize(
        ("saved", "name"),
        [
            *((0, name) for name in ("lock", "metrics.jsonl")),
            *((2, name) for name in ("last.safetensors", "4.json")),
            (4, "4.json"),  # the progress that is noted after the evaluation
            pytest.param(0, "environment.json", marks=pytest.mark.slow),
            *(pytest.param(2, name, marks=pytest.mark.slow) for name in ("metrics.jsonl", "log.txt", "3.png")),
        ],
    )
    def test_any_file_of_a_run(self, whole, tmp_path, fill, monkeypatch, saved, name):
        """The disk is full for one file, from the start or from the checkpoint at step `saved` on."""
        run, save = tmp_path / "run", checkpoints.save

        def save_and_fill(path, step, *rest):
            save(path, step, *rest)
            fill(name) if step == saved else None

        monkeypatch.setattr(checkpoints, "save", save_and_fill)
        if not saved:
            fill(name)
        refusal = cli("run", whole.parent / "tiny.toml", "-o", run).refusal
        monkeypatch.setattr(checkpoints, "save", save)
        fill.empty()
        assert str(run) in refusal and os.strerror(errno.ENOSPC) in refusal
        self.assert_goes_on(whole, run, saved)

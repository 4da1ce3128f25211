"""Files that cannot be read and loader processes that die: the run says which image it was, or takes another one."""

import os
import re
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import ranks
import torch
import warm
from commandline import Result, cli
from registered import registered
from tiny_network import TinyNetwork
from torch.utils.data import get_worker_info

from conftest import own_recipe
from farcluss.data.base import Item, Sample
from farcluss.data.files import FileReader
from farcluss.data.loader import LABELED, UNLABELED, PairedCrops, host_batches, item_index, step_addresses
from farcluss.errors import DataError
from farcluss.recipes.model import Data
from farcluss.runs import checkpoints
from farcluss.training import engine

STEPS, BATCH, EVERY = 10, 2, 2
SKIP = "data.on_error=skip"
DATA = 'classes = ["a", "b", "c"]\nlabeled = "all"'  # images 0 to 3 are labeled, 4 and 5 are not
TRAIN = f"steps = {STEPS}\nbatch = {BATCH}\nlr = 0.05\nlog_every = 1\ncheckpoint_every = {EVERY}"
MASK, PICTURE = "masks/train/2.png", "images/train/5.png"


class Home:
    """A folder of images, a recipe for it, and its runs."""

    def __init__(self, images: Path) -> None:
        self.images, self.recipe = images, images.parent / "recipe.toml"
        self.recipe.write_text(own_recipe(images, DATA, TRAIN))

    def run(self, name: str, *settings: str, resume: bool = False) -> Result:
        changes = [word for setting in ("network.name=tiny", *settings) for word in ("--set", setting)]
        return cli("run", self.recipe, "-o", self.folder(name), *changes, *["--resume"][: int(resume)])

    def folder(self, name: str) -> Path:
        return self.recipe.parent / name

    def newest(self, name: str) -> checkpoints.Checkpoint:
        return checkpoints.read_newest(self.folder(name) / "checkpoints")

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        found = self.newest(name)
        assert found.manifest.step == STEPS
        return {f"{who}.{key}": value for who in ("student", "teacher") for key, value in found.state[who].items()}

    def assert_equal(self, one: str, other: str, tolerance: float = 0) -> None:
        first, second = self.tensors(one), self.tensors(other)
        assert first.keys() == second.keys()
        for key, value in first.items():
            torch.testing.assert_close(value, second[key], rtol=tolerance, atol=tolerance, msg=key)

    def cut(self, *names: str) -> None:
        """Leave the first half of files, whose headers can still be read."""
        for path in (self.images / name for name in names):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def home(image_folder):
    with registered("network", "tiny", TinyNetwork):
        yield Home(image_folder)


def patch_step(monkeypatch, before) -> None:
    """Have `before(step)` called before each step, `step` of which have been done."""
    original = engine.one_step
    monkeypatch.setattr(engine, "one_step", lambda run, *a: (before(run.step), original(run, *a))[1])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["images/train/1.png", PICTURE, MASK])
def test_by_default_the_run_ends_and_names_the_file(home, name, workers):
    home.cut(name)
    refusal = home.run("run", f"data.workers={workers}").refusal
    assert str(home.images / name) in refusal and "truncated" in refusal


@pytest.mark.parametrize("workers", [0, 2])
def test_after_a_repair_the_run_goes_on_as_if_nothing_had_been(home, monkeypatch, workers):
    assert home.run("whole").code == 0
    content = (home.images / PICTURE).read_bytes()
    # Loader processes are at most seven steps ahead of the third one, and every step has the image.
    with monkeypatch.context() as patches:
        patch_step(patches, lambda step: home.cut(PICTURE) if step == EVERY else None)
        assert str(home.images / PICTURE) in home.run("run", f"data.workers={workers}").refusal
    assert EVERY <= home.newest("run").manifest.step < STEPS
    (home.images / PICTURE).write_bytes(content)
    assert home.run("run", f"data.workers={workers}", resume=True).code == 0
    home.assert_equal("run", "whole")


def listed(result: Result) -> dict[str, int]:
    """How often the end of a run says that each file was to be read, by its path."""
    assert result.code == 0, result
    end = result.out.partition(" images could not be read and were replaced by others:\n")
    counts = {path: int(times) for times, path in re.findall(r"^  (\d+) x (.+?\.png) ", end[2], re.MULTILINE)}
    assert int(end[0].split()[-1]) == len(counts)
    return counts


class TestSkipping:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_the_end_of_the_run_lists_what_could_not_be_read(self, home, workers):
        home.cut(MASK, PICTURE)
        places = [(MASK, 4, LABELED, 2), (PICTURE, 2, UNLABELED, 1)]
        turns = {name: [item_index(count, 0, stream, place) for place in range(STEPS * BATCH)].count(index)
                 for name, count, stream, index in places}  # fmt: skip
        assert turns == {MASK: 5, PICTURE: 10}  # whole passes over four and over two images
        found = listed(home.run("run", SKIP, f"data.workers={workers}"))
        assert found == {str(home.images / name): times for name, times in turns.items()}

    def test_workers_and_interruptions_change_nothing(self, home, monkeypatch):
        good = [home.run(name, *settings) for name, settings in (("good", []), ("skip", [SKIP]))]
        assert all(result.code == 0 and "could not be read" not in result.out for result in good)
        home.assert_equal("good", "skip")
        home.cut(MASK, PICTURE)
        whole = listed(home.run("whole", SKIP))
        assert listed(home.run("workers", SKIP, "data.workers=2")) == whole
        home.assert_equal("workers", "whole")

        def interrupt(step):
            if step == 2 * EVERY + 1:
                raise KeyboardInterrupt

        with monkeypatch.context() as patches:
            patch_step(patches, interrupt)
            assert home.run("part", SKIP, "data.workers=2").code == 130
        assert home.newest("part").manifest.step == 2 * EVERY
        before = home.newest("part").manifest.progress["replaced"]
        assert 0 < sum(before.values()) < sum(whole.values())
        assert listed(home.run("part", SKIP, resume=True)) == whole
        home.assert_equal("part", "whole")
        with pytest.raises(AssertionError):
            home.assert_equal("whole", "good")  # else the equalities would say nothing

    def test_two_processes_change_nothing_but_rounding(self, home):
        home.cut(MASK, PICTURE)
        assert home.run("one", SKIP).code == 0
        ranks.launch((home.recipe.parent, 2, {"two": ["network.name=tiny", SKIP]}))
        assert home.newest("two").manifest.progress["replaced"] == home.newest("one").manifest.progress["replaced"]
        home.assert_equal("one", "two", tolerance=1e-5)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_where_nothing_can_be_read_the_run_ends(self, home, workers):
        names = [f"images/train/{n}.png" for n in range(4)]
        home.cut(*names)
        refusal = home.run("run", SKIP, f"data.workers={workers}").refusal
        assert any(str(home.images / name) in refusal for name in names)

    @pytest.mark.parametrize("name", ["images/val/1.png", "masks/val/0.png"])
    def test_images_to_validate_on_are_never_replaced(self, home, name):
        home.cut(name)
        assert str(home.images / name) in home.run("run", SKIP).refusal
        assert home.newest("run").manifest.step == STEPS  # what has been trained is kept


class Numbers:
    """Images of one value each, the number in their name; some cannot be read."""

    classes, palette = ("a", "b"), ((0, 0, 0), (1, 1, 1))
    broken = frozenset({"1", "4", "12"})

    def size(self, item):
        return 8, 8

    def read(self, item, window=None):
        if item.id in self.broken:
            raise DataError(f"{item.image} cannot be read.")
        shape = tuple(part.stop - part.start for part in window)
        return Sample(np.full((3, *shape), int(item.id), np.uint8), np.zeros(shape, np.uint8) if item.mask else None)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_names_the_images_that_it_holds(workers):
    items = [Item(str(n), f"{n}.png", "mask" if n < 10 else None) for n in range(20)]
    data = Data(scale=(1, 1), on_error="skip")
    crops = PairedCrops(Numbers(), (items[:10], items[10:]), data, (8, 8), 4, 0)
    said, places = Counter(), Counter()
    for step, batch in enumerate(host_batches(crops, step_addresses(0, 10, 4, (0, 1), 0, 1), workers, False)):
        due = [item_index(10, 0, stream, 4 * step + slot) + 10 * stream for stream in (0, 1) for slot in range(4)]
        assert [int(name) for name in batch.ids] == batch.images.amax((1, 2, 3)).tolist()
        for name, number in zip(batch.ids, due, strict=True):
            assert (name == str(number)) == (str(number) not in Numbers.broken)
            assert name not in Numbers.broken and (int(name) < 10) == (number < 10)  # of the same set
        said.update(batch.unreadable)
        places.update(f"{n}.png cannot be read." for n in due if str(n) in Numbers.broken)
    assert said.keys() == places.keys() and all(said[text] >= times for text, times in places.items())


def kill_reader(monkeypatch, victim: str, ready=lambda reads: True) -> None:
    """Have the loader processes die that read `victim`, a path's end, when `ready` after so many reads of theirs."""
    original, reads = FileReader.read, []

    def read(self, item, window=None):
        reads.append(item)
        if get_worker_info() and item.image.endswith(victim) and ready(len(reads)):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, item, window)

    monkeypatch.setattr(FileReader, "read", read)


def wait_for(condition) -> bool:
    """Patiently; signals are handled meanwhile."""
    for _ in range(2000):
        if condition():
            return True
        time.sleep(0.01)
    raise AssertionError("what was waited for has not come")


LOOKS = "torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data.__defaults__"
"""Seconds after which PyTorch looks whether its processes live, when no batch has come: five are long for tests."""
SECOND = """
import os, signal, time
from pathlib import Path
from torch.utils.data import get_worker_info
from torch.utils.data import _utils, dataloader
from farcluss.plugins import registry
from farcluss.data import loader
from farcluss.data.shapes import Shapes

# Instead of 5, 5 and 20 seconds.
dataloader._MultiProcessingDataLoaderIter._try_get_data.__defaults__ = (0.1,)
_utils.MP_STATUS_CHECK_INTERVAL, loader.PATIENCE = 0.1, 0.5

class Second(Shapes):
    def read(self, item, window=None):
        worker, notes, parent = get_worker_info(), Path("notes"), os.getppid()
        if worker and worker.id == 0:
            with notes.open("a") as file:
                print(os.getpid(), file=file)
        elif worker:
            while not notes.exists() or len(notes.read_text().split()) < 4:
                time.sleep(0.01)
            time.sleep(0.5)  # the batch is on its way
            os.kill(int(notes.read_text().split()[0]), signal.SIGKILL)
            while os.getppid() == parent:
                time.sleep(0.1)
            os._exit(0)
        return super().read(item, window)

registry.register("dataset", "second", Second)
"""
"""A data set of which the second of two loader processes kills the first, which has read its batch, and hangs then."""


class TestADeadLoaderProcess:
    @pytest.fixture(autouse=True)
    def look_often(self, monkeypatch):
        monkeypatch.setattr(LOOKS, (0.2,))

    @pytest.mark.parametrize(("on_error", "name"), [("stop", "images/train/2.png"), ("skip", PICTURE)])
    def test_is_named_with_the_image_that_it_was_reading(self, home, monkeypatch, name, on_error):
        kill_reader(monkeypatch, name)
        assert home.run("alone", f"data.on_error={on_error}").code == 0  # nobody dies without loader processes
        refusal = home.run("run", f"data.on_error={on_error}", "data.workers=2").refusal
        assert f"died while reading {home.images / name}" in refusal and "data.workers" in refusal

    def test_also_while_a_step_is_computed(self, home, monkeypatch):
        go = home.recipe.with_name("go")
        # Two images are looked at before. Two steps are loaded; in the third the process waits until the second is
        # computed.
        kill_reader(monkeypatch, PICTURE, lambda reads: reads > 2 + 2 * 2 * BATCH and wait_for(go.exists))
        # The sleep ends early when the death is noticed.
        patch_step(monkeypatch, lambda step: (go.touch(), time.sleep(2)) if step == 1 else None)
        assert f"died while reading {home.images / PICTURE}" in home.run("run", "data.workers=1").refusal

    def test_is_named_in_the_evaluation_too(self, home, monkeypatch):
        kill_reader(monkeypatch, "images/val/1.png")
        refusal = home.run("run", "data.workers=2").refusal
        assert "loader process died" in refusal and str(home.images / "images/val/1.png") in refusal

    def test_that_was_idle_is_not_blamed_and_one_that_hangs_does_not_keep_the_run(self, tiny_recipe, tmp_path):
        (tmp_path / "second.py").write_text(SECOND)
        settings = ['data.layout={ name = "second", train = 12, size = 32 }', "data.workers=2"]
        words = ["run", tiny_recipe, "--plugin", "second.py", *(w for text in settings for w in ("--set", text))]
        refusal = warm.python("from farcluss.cli import main\nmain()", *words, cwd=tmp_path).refusal
        assert "loader process died" in refusal and "while reading" not in refusal

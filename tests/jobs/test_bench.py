"""`farcluss bench`: every part of a step has its time, and the advice follows from the figures."""

import json
import time
from dataclasses import replace

import pytest
from commandline import cli
from registered import registered

from conftest import own_recipe
from farcluss.data.shapes import Shapes
from farcluss.jobs import benching
from farcluss.jobs.benching import PARTS, Figures, advise
from farcluss.recipes.reading import load_recipe
from farcluss.stages.weight import Uniform

EVEN = dict.fromkeys(PARTS, 0.0) | {"teacher": 0.2, "student": 0.25, "backward": 0.45, "wait": 0.02, "other": 0.08}
FIGURES = Figures("cpu", "no", 1.0, EVEN, {"labeled": 0.1, "unlabeled": 0.3}, 16, 2, 8, 1, 1.0, None)


class TestTheCommand:
    def test_json(self, quick_recipe):
        result = cli("bench", quick_recipe, "--steps", "2", "--json")
        assert (result.code, result.err) == (0, ""), result
        given = json.loads(result.out)
        assert list(given["parts"]) == list(PARTS)
        assert (
            all(given["parts"][name] > 0 for name in PARTS if name != "first_pass") and not given["parts"]["first_pass"]
        )
        assert given["load"].keys() == {"labeled", "unlabeled"} and given["images"] == 4
        assert given["images_per_second"] == pytest.approx(4 / given["step"])
        assert isinstance(given["advice"], list)

    def test_text(self, quick_recipe, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        before = sorted(tmp_path.rglob("*"))
        result = cli("bench", quick_recipe, "--steps", "1")
        assert result.code == 0, result
        assert result.out.startswith("cpu x 1: ") and "images/s" in result.out
        for name in PARTS:
            assert name.replace("_", " ") in result.out
        assert "data.workers is 0" in result.out
        assert sorted(tmp_path.rglob("*")) == before

    def test_supervised(self, quick_recipe):
        given = json.loads(cli("bench", quick_recipe, "--with", "supervised", "--steps", "1", "--json").out)
        assert given["load"].keys() == {"labeled"} and given["images"] == 2
        assert given["parts"]["teacher"] == given["parts"]["augment"] == 0

    def test_an_unreadable_image_is_named(self, image_folder, tmp_path):
        for path in image_folder.glob("images/train/*.png"):
            path.write_bytes(b"broken")
        recipe = tmp_path / "own.toml"
        recipe.write_text(own_recipe(image_folder, 'classes = ["a", "b", "c"]', "steps = 5\nbatch = 2"))
        result = cli("bench", recipe)
        assert result.code == 1 and "cannot be read" in result.err and "Traceback" not in result.err

    def test_no_steps_is_wrong_usage(self, quick_recipe):
        assert cli("bench", quick_recipe, "--steps", "0").code == 2


class Slow(Uniform):
    def statistics(self, labels, classes):
        time.sleep(0.05)
        return super().statistics(labels, classes)


class Busy(Shapes):
    """Images that take a core a while."""

    def read(self, item, window=None):
        end = time.process_time() + 0.025
        while time.process_time() < end:
            pass
        return super().read(item, window)


@pytest.fixture
def slow():
    with registered("weight", "slow", Slow), registered("dataset", "busy", Busy):
        yield


def test_a_slow_stage_and_slow_images_are_found(quick_recipe, slow, monkeypatch):
    """Time is injected, so lower bounds are certain however busy the machine is."""
    monkeypatch.setattr(benching, "DECODED", 2)
    layout = 'data.layout={ name = "busy", train = 12, val = 3, size = 32 }'
    words = ["--set", "stages.weight=slow", "--set", layout, "--steps", "1", "--json"]
    given = json.loads(cli("bench", quick_recipe, *words).out)
    assert given["parts"]["weight"] >= 0.05
    assert given["parts"]["wait"] >= 0.1 and given["step"] >= 0.15
    assert min(given["load"].values()) >= 0.025


class TestAdvice:
    @pytest.fixture
    def recipe(self, quick_recipe):
        return load_recipe(quick_recipe)

    def test_the_networks_are_the_limit(self, recipe):
        (sentence,) = advise(FIGURES, recipe)
        assert sentence.startswith("The networks take 90 %")

    def test_workers(self, recipe):
        """0.2 s of a core per image and 16 images are 3.2 s of work, for steps of 0.8 s without the waiting."""
        waiting = replace(FIGURES, parts={**EVEN, "wait": 0.2})
        assert waiting.needed_workers == 4
        assert "Raise data.workers from 2 to 4." in advise(waiting, recipe)[0]
        few = replace(waiting, cores=2)
        assert "Pack the data set" in advise(few, recipe)[0]
        packed = recipe.model_copy(update={"data": recipe.data.model_copy(update={"pack": "x.h5"})})
        assert "It needs 4 loader processes, but there are 2 cores" in advise(few, packed)[0]
        for other in (recipe, packed):
            assert "the disk or the transfer from them is slow" in advise(replace(waiting, workers=4), other)[0]

    def test_precision_and_memory(self, recipe):
        cuda = replace(FIGURES, device="cuda", memory_share=0.95)
        sentences = " ".join(advise(cuda, recipe))
        assert "bf16" in sentences and "train.split_backward" in sentences
        train = recipe.train.model_copy(update={"accumulate": 2})
        half = replace(cuda, memory_share=0.2, precision="bf16")
        free = " ".join(advise(half, recipe.model_copy(update={"train": train})))
        assert "bf16" not in free and "smaller train.accumulate" in free

    def test_a_heavy_stage_is_named(self, recipe):
        (sentence,) = advise(replace(FIGURES, parts={**EVEN, "augment": 0.5}), recipe)
        assert "augment/photometric takes 33 %" in sentence

    @pytest.mark.parametrize("part", ["copy", "first_pass", "losses", "optimizer", "ema", "other"])
    def test_no_part_is_large_without_a_word(self, recipe, part):
        (sentence,) = advise(replace(FIGURES, parts={**EVEN, "other": 0.0, part: 1.0}), recipe)
        assert "takes 52 % of a step." in sentence

"""`farcluss check`: it counts what is there, lists everything that is wrong, and tries one step."""

import json

import numpy as np
import pytest
from commandline import cli
from PIL import Image

from conftest import own_recipe

DATA = 'classes = ["sky", "road", "tree", "never"]'
TRAIN = "steps = 5\nbatch = 2"


@pytest.fixture
def recipe(image_folder, tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(own_recipe(image_folder, DATA, TRAIN))
    return path


def histogram(paths):
    """Pixels per mask value, counted by NumPy from the files."""
    values = np.concatenate([np.asarray(Image.open(path)).ravel() for path in paths])
    counts = {name: int((values == value).sum()) for value, name in enumerate(["sky", "road", "tree", "never"])}
    return {**counts, "ignored": int((values == 255).sum())}


class TestGood:
    def test_json(self, recipe, image_folder):
        result = cli("check", recipe, "--json")
        assert (result.code, result.err) == (0, ""), result
        given = json.loads(result.out)
        assert given["problems"] == []
        assert given["lists"] == {"labeled": "all", "unlabeled": "rest", "val": "val"}
        assert given["sizes"] == {"labeled": {"20x24": 4}, "unlabeled": {"20x24": 2}, "val": {"20x24": 2}}
        masks = image_folder / "masks"
        assert given["pixels"] == {
            "labeled": histogram(masks.glob("train/*.png")), "val": histogram(masks.glob("val/*.png"))
        }  # fmt: skip
        trial = given["dry_run"]
        assert set(trial) == {"seconds_per_step", "memory_gib", "parameters_millions", "loss"}
        assert all(value > 0 for value in trial.values())
        assert 0.2 < trial["parameters_millions"] < 1

    def test_text(self, recipe, image_folder):
        result = cli("check", recipe)
        assert result.code == 0, result
        assert "labeled        4 images (all): 4 of 20x24" in result.out
        assert "unlabeled      2 images (rest): 2 of 20x24" in result.out
        counts = histogram(image_folder.glob("masks/train/*.png"))
        for name, count in counts.items():
            line = next(line for line in result.out.splitlines() if line.startswith(f"{name} "))
            assert (f"{100 * count / sum(counts.values()):.2f}" if count else "none") in line
        last = result.out.strip().splitlines()[-1]
        assert last.startswith("one step: ") and last.endswith("The recipe is ready to run, with 1 warning.")
        for word in (" s, ", " GiB peak, ", " M parameters, ", "loss "):
            assert word in last

    def test_sizes_are_counted_each(self, recipe, image_folder):
        for number, size in enumerate([(30, 40), (31, 40)]):
            Image.new("RGB", size).save(image_folder / f"images/train/more{number}.png")
        sizes = json.loads(cli("check", recipe, "--json").out)["sizes"]
        assert sizes["unlabeled"] == {"20x24": 2, "40x30": 1, "40x31": 1}

    def test_it_writes_nothing(self, recipe, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        before = sorted(tmp_path.rglob("*"))
        assert cli("check", recipe).code == 0
        assert sorted(tmp_path.rglob("*")) == before

    def test_the_trial_is_past_the_warm_up(self, recipe):
        """With a weight on the unsupervised loss so large that it shows in the total."""
        words = ["check", recipe, "--json", "--set", "loss.warmup_steps=1000", "--set", "loss.unsupervised=1e6"]
        assert json.loads(cli(*words).out)["dry_run"]["loss"] > 100

    def test_a_supervised_recipe(self, recipe):
        given = json.loads(cli("check", recipe, "--json", "--with", "supervised", "--set", "data.unlabeled=none").out)
        assert given["sizes"]["unlabeled"] == {} and given["dry_run"]["loss"] > 0

    def test_a_drawn_set(self, tiny_recipe):
        given = json.loads(cli("check", tiny_recipe, "--json").out)
        assert given["lists"]["labeled"] == "4/12"
        assert {name: sum(sizes.values()) for name, sizes in given["sizes"].items()} == {
            "labeled": 4, "unlabeled": 8, "val": 3
        }  # fmt: skip
        assert sum(given["pixels"]["labeled"].values()) == 4 * 32 * 32


class TestBad:
    @pytest.fixture
    def damaged(self, image_folder):
        """Four files that cannot be used, in all three sets; the words of each problem."""
        masks, images = image_folder / "masks", image_folder / "images"
        mask = np.array(Image.open(masks / "train/1.png"))
        mask[5:8] = 37
        Image.fromarray(mask).save(masks / "train/1.png")
        (masks / "train/2.png").write_bytes(b"")
        (images / "train/5.png").write_bytes((images / "train/5.png").read_bytes()[:200])
        Image.fromarray(np.zeros((5, 6), np.uint8)).save(masks / "val/0.png")
        return {
            "labeled images/train/1: ": "masks/train/1.png holds the value 37, which none of the 4 classes has",
            "labeled images/train/2: ": "it is empty (0 bytes)",
            "unlabeled images/train/5: ": "probably truncated",
            "val images/val/0: ": "is 6 x 5 pixels",
        }

    @pytest.mark.parametrize("workers", [0, 2])
    def test_every_file_is_listed(self, recipe, damaged, workers):
        result = cli("check", recipe, "--set", f"data.workers={workers}")
        assert result.code == 1
        problems = [line for line in result.err.splitlines() if line.startswith("Problem: ")]
        assert len(problems) == 4
        for place, reason in damaged.items():
            assert any(line.startswith(f"Problem: {place}") and reason in line for line in problems), problems
        assert result.err.strip().endswith("4 problems: the recipe cannot be run.")
        assert "ready to run" not in result.out and "Traceback" not in result.err

    def test_as_json(self, recipe, damaged):
        result = cli("check", recipe, "--json")
        assert result.code == 1
        given = json.loads(result.out)
        assert len(given["problems"]) == 4 and given["dry_run"] == {}
        assert given["sizes"]["labeled"] == {"20x24": 2}

    def test_very_many_are_cut_short(self, recipe, image_folder):
        for number in range(25):
            (image_folder / f"images/train/bad{number}.png").touch()
        result = cli("check", recipe)
        assert result.code == 1
        assert sum(line.startswith("Problem: ") for line in result.err.splitlines()) == 20
        assert "... and 5 more; --json lists all." in result.err
        assert len(json.loads(cli("check", recipe, "--json").out)["problems"]) == 25

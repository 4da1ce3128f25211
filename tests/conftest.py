"""Fixtures that many tests share: a recipe that trains in a second, its run, and a folder of images."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from registered import registered
from tiny_network import TinyNetwork
from tiny_recipe import tiny_recipe as recipe_text

os.fsync = lambda handle: None  # no test needs its files after a power failure; those about it bring their own

TINY = """# Drawn scenes and a tiny network: two steps.
[data]
layout = { name = "shapes", train = 12, val = 3, size = 32 }
labeled = "4/12"
crop = 32
workers = 0

[network]
name = "deeplabv3plus"
encoder = "test_resnet"
output_stride = 8
aspp_channels = 16
head_channels = 16

[stages]
contrast = { name = "prototype", dim = 8 }

[train]
steps = 2
batch = 2
log_every = 1
"""


OWN = """
[data]
root = "{root}"
layout = {{ name = "folder", images = "images/train", masks = "masks/train", val_images = "images/val", \
val_masks = "masks/val" }}
{data}
crop = 16
workers = 0
[network]
encoder = "test_resnet"
aspp_channels = 8
head_channels = 8
[stages]
augment = "identity"
contrast = "none"
[train]
{train}
"""


def own_recipe(root: Path, data: str, train: str) -> str:
    """A recipe for a folder such as `image_folder`, with further lines of `[data]` and of `[train]`."""
    return OWN.format(root=root.as_posix(), data=data, train=train)


def write_tiny(folder: Path) -> Path:
    path = folder / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Path:
    """A recipe file that trains in a second."""
    return write_tiny(tmp_path)


@pytest.fixture
def quick_recipe(tmp_path: Path):
    """A recipe file on a network that takes next to no time, and that other processes do not know."""
    path = tmp_path / "quick.toml"
    path.write_text(recipe_text(network="norm = true", augment='"photometric"', steps=2, batch=2))
    with registered("network", "tiny", TinyNetwork):
        yield path


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of the tiny recipe, of a few more and larger steps. Tests must not write into it.

    They are many enough for predictions of several classes, and for a teacher that differs from the student.
    """
    from farcluss import load_recipe, train

    folder = tmp_path_factory.mktemp("trained")
    settings = ["train.seed=2", "train.steps=12", "train.batch=4", "train.lr=0.1", "train.ema=0.5"]
    return train(load_recipe(write_tiny(folder), settings=settings), folder / "run")


def write_images(root: Path, classes: int = 3, size: tuple[int, int] = (24, 20)) -> Path:
    """Six images, masks for the first four, two more of both to validate on; each `size` (width, height)."""
    rng = np.random.default_rng(7)
    for kind, number in [("train", n) for n in range(6)] + [("val", n) for n in range(2)]:
        colors = rng.integers(0, 256, (*size[::-1], 3), np.uint8)
        mask = rng.integers(0, classes, size[::-1], np.uint8)
        mask[0] = 255
        for folder, array in (("images", colors), ("masks", mask)):
            if folder == "images" or kind == "val" or number < 4:
                path = root / folder / kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return root


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A data set of one's own, see `write_images`."""
    return write_images(tmp_path / "own")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An empty folder of installed distributions."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("fake_")]:
        del sys.modules[name]

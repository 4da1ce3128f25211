"""Data sets of drawn scans, and what tests say of them."""

import os

import pytest
from phantoms import Phantom, write_image, write_label

from farcluss.errors import FarclussError
from farcluss.recipes.model import Data
from farcluss.testing import DatasetTester

SMALL = (16.0, 20.0, 12.0)
BINARY = {"background": 0, "tumor": 1}


def build(layout, root, *, channels=1, classes=None, data=None, **options):
    """A data set whose cache lies beside its files; `data` are further keys of the section."""
    section = Data(root=root, channels=channels, mean=0.0, std=1.0, classes=classes, **(data or {}))
    return layout(section, cache=str(root.parent / f"{root.name}-cache"), **{"normalize": "none", **options})


def pairs(dataset, split="train"):
    """What belongs to what, by item: its image and label as paths below the root."""
    root = os.path.abspath(dataset.data.root)
    return {
        item.id: (os.path.relpath(item.image, root), item.mask and os.path.relpath(item.mask, root))
        for item in dataset.items(split)
    }


def groups(dataset, split="train"):
    return {item.id: item.group for item in dataset.items(split)}


def problems(dataset, *words):
    """The findings, each of which must hold its group of words."""
    found = dataset.findings()
    assert len(found) == len(words), found
    for each in words:
        each = (each,) if isinstance(each, str) else each
        assert any(all(word in text for word in each) for text in found), (each, found)
    return found


def refused(function, *args, **options):
    """The text of a refusal, of one to three lines."""
    with pytest.raises(FarclussError) as caught:
        function(*args, **options)
    text = str(caught.value)
    assert 1 <= len(text.splitlines()) <= 3, text
    return text


def phantom(seed=0, channels=1):
    return Phantom(seed, channels, extent=SMALL).scan()


def image(path, seed=0, channels=1):
    write_image(path, phantom(seed, channels), unit=True)


def label(path, seed=0, edition="binary"):
    write_label(path, phantom(seed), edition)


class UnitTester(DatasetTester):
    """Intensities as they are in files, and these in [0, 1]."""

    channels = 1
    normalize = "none"

    @pytest.fixture(autouse=True)
    def _files(self, tmp_path):
        self.draw(tmp_path / "root")
        type(self).options = {**type(self).options, "normalize": self.normalize, "cache": str(tmp_path / "cache")}
        self.data = Data(root=tmp_path / "root", channels=self.channels, mean=0.0, std=1.0, classes=BINARY)

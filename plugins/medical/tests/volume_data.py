"""Data sets of drawn scans, and what tests say of them."""

import os

import pytest

from farcluss.errors import FarclussError
from farcluss.recipe import Data


def build(layout, root, *, channels=1, classes=None, data=None, **options):
    """A data set whose cache lies beside its files; `data` are further keys of the section."""
    section = Data(root=root, channels=channels, classes=classes, **(data or {}))
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

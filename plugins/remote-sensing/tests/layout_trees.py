"""What tests of layouts share: sections, what belongs to what, refusals."""

import os

import pytest
from drawn_scenes import CLASSES, Drawing, draw_label, draw_scene, write

from farcluss.errors import FarclussError
from farcluss.recipes.model import Data
from farcluss.testing import DatasetTester

SMALL = Drawing(size=(24, 20), bands=3, dtype="uint8")
PICTURE = SMALL.but(crs=None, transform=None)
VALUES = dict(zip(CLASSES, range(1, 5), strict=True))


def build(layout, root, *, channels=3, classes=VALUES, data=None, **options):
    """A data set with values in [0, 1]; `data` are further keys of the section."""
    facts = {"ignore_index": 0} if classes is VALUES else {}
    section = Data(root=root, channels=channels, classes=classes, mean=0.0, std=1.0, **facts | (data or {}))
    return layout(section, **{"scaling": "scale", "factor": 255.0, **options})


def pairs(dataset, split="train"):
    """What belongs to what, by scene: its images and its label as paths below the root."""
    root = os.path.abspath(dataset.data.root)

    def short(path):
        return path and os.path.relpath(path, root)

    found = [dataset.find(item)[0] for item in dataset.items(split)]
    return {scene.id: (*map(short, scene.images), short(scene.label)) for scene in found}


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


def picture(path, seed=0):
    """An 8-bit color image without a place."""
    return draw_scene(path, PICTURE.but(seed=seed))


def pixels(path, seed=0):
    """Its label: values 1 to 4."""
    return draw_label(path, PICTURE.but(seed=seed))


def array(path, values):
    """A label of any values."""
    return write(path, values, PICTURE)


class SceneTester(DatasetTester):
    """Layouts of drawn trees; subclasses have `draw(root)`."""

    classes = VALUES

    @pytest.fixture(autouse=True)
    def _files(self, tmp_path):
        self.draw(tmp_path / "root")
        type(self).options = {"scaling": "scale", "factor": 255.0, **type(self).options}
        ignored = {"ignore_index": 0} if self.classes is VALUES else {}
        facts = {"root": tmp_path / "root", "channels": self.channels, "classes": self.classes, **ignored}
        self.data = Data(mean=0.0, std=1.0, **facts)

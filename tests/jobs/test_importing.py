"""`farcluss import`: masks written once are those that are drawn when images are read."""

import json
import tomllib

import numpy as np
import pytest
from commandline import cli
from exports import CLASSES, DRAWN
from PIL import Image

from farcluss.learning.build import build_dataset
from farcluss.recipes.model import Data


@pytest.mark.parametrize("name", DRAWN)
def test_written_masks_are_the_drawn_ones(name, tmp_path):
    source, output = tmp_path / "export", tmp_path / "masks"
    source.mkdir()
    DRAWN[name](source)
    found = cli("import", name, source, "-o", output, "--set", "empty=unlabeled")
    assert found.code == 0 and "train: 3 images, 2 with a mask" in found.out
    section = tomllib.loads(found.out[found.out.index("[data]") :])["data"]
    assert section["classes"] == ["background", *CLASSES]
    written = build_dataset(Data(**section))
    drawn = build_dataset(Data(root=source, layout={"name": name, "empty": "unlabeled"}))
    assert written.palette == drawn.palette
    pairs = list(zip(written.items("train"), drawn.items("train"), strict=True))
    assert [one.image for one, _ in pairs] == [other.image for _, other in pairs] and len(pairs) == 3
    for one, other in pairs:
        (image, mask, _), (wanted, drawing, _) = written.read(one), drawn.read(other)
        np.testing.assert_array_equal(image, wanted)
        assert (mask is None) == (drawing is None)
        if mask is not None:
            np.testing.assert_array_equal(mask, drawing)
            assert Image.open(one.mask).getpalette()[:9] == list(np.ravel(drawn.palette))


def test_refusals_write_nothing(tmp_path):
    source = tmp_path / "export"
    source.mkdir()
    DRAWN["labelme"](source)
    assert "did you mean 'labelme'" in cli("import", "labelmee", source).refusal
    assert "data.layout.empty" in cli("import", "labelme", source).refusal
    assert "no .xml file" in cli("import", "cvat-xml", source).refusal
    assert not (tmp_path / "export-masks").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert (
        "is not empty" in cli("import", "labelme", source, "-o", tmp_path / "full", "--set", "empty=unlabeled").refusal
    )
    facts = json.loads(cli("import", "labelme", source, "--json", "--set", "empty=background").out)
    assert facts["counts"] == {"train": {"images": 3, "masks": 3}}

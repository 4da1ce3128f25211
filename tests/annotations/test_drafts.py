"""Drafts for annotation tools: what a tool reads from them is what was predicted."""

import json

import numpy as np
import oracles
import pytest
from exports import CLASSES, photo
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO

from farcluss.annotations.drafts import EACH, JOINT, Draft, outlines, regions
from farcluss.annotations.shapes import Polygon
from farcluss.learning.build import build_dataset
from farcluss.recipes.model import Data

NAMES = ("background", *CLASSES)


def blobs(seed, size=(40, 56), holes=True):
    """Class indices in ragged patches, of any shape."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((10, 14))
    fine = np.kron(coarse, np.ones((4, 4))) + 0.25 * rng.random((40, 56))
    found = np.digitize(fine, [0.55, 0.85])
    if not holes:
        found = np.zeros_like(found)
        for index, (top, left) in enumerate([(2, 3), (20, 25), (5, 35)]):
            found[top : top + 11, left : left + 15] = 1 + index % 2
            found[top + 3 : top + 6, left + 9 : left + 15] = 0  # a notch, no hole
    return found


def drafted(name, classes, folder, image="x.png"):
    """Write the draft of one image in a folder beside it."""
    found = regions(classes, np.full(classes.shape, 0.75, np.float32), NAMES, 1)
    draft = Draft(image, classes.shape, found)
    if name in EACH:
        (folder / f"x{EACH[name][0]}").write_text(EACH[name][1](draft))
    else:
        (folder / JOINT[name][0]).write_text(JOINT[name][1]([draft], NAMES))
    return found


def read_back(name, folder):
    dataset = build_dataset(Data(root=folder, layout={"name": name}, classes=list(NAMES)))
    (item,) = dataset.items("train")
    return dataset.read(item).mask


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["coco-json", "labelme", "label-studio", "cvat-xml"])
def test_what_was_predicted_is_read_back(name, seed, tmp_path):
    classes = blobs(seed)
    photo(tmp_path / "x.png", classes.shape)
    drafted(name, classes, tmp_path)
    if name == "label-studio":  # an annotator accepts the prediction
        path = tmp_path / "tasks.json"
        path.write_text(path.read_text().replace('"predictions"', '"annotations"'))
    np.testing.assert_array_equal(read_back(name, tmp_path), classes)


def test_yolo_is_read_back_where_there_are_no_holes(tmp_path):
    classes = blobs(0, holes=False)
    photo(tmp_path / "images" / "x.png", classes.shape)
    (tmp_path / "labels").mkdir()
    drafted("yolo", classes, tmp_path / "labels")
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(NAMES))
    (tmp_path / "data.yaml").write_text(f"path: .\ntrain: images\nnames:\n{names}")
    np.testing.assert_array_equal(read_back("yolo", tmp_path), classes)


def test_the_tool_of_coco_reads_it(tmp_path):
    classes = blobs(4)
    found = drafted("coco-json", classes, tmp_path)
    read = COCO(str(tmp_path / "annotations.json"))
    seen = np.zeros(classes.shape, int)
    for each in read.loadAnns(read.getAnnIds()):
        mask = read.annToMask(each).astype(bool)
        assert each["area"] == mask.sum() and each["score"] == 0.75
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        np.testing.assert_array_equal(each["bbox"], box)
        seen[mask] = NAMES.index(read.loadCats(each["category_id"])[0]["name"])
    np.testing.assert_array_equal(seen, classes)
    assert len(read.getAnnIds()) == len(found)


def test_a_labelme_file_has_what_its_tool_asks_for(tmp_path):
    drafted("labelme", blobs(1), tmp_path, "../photos/x.png")
    table = json.loads((tmp_path / "x.json").read_text())
    assert {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"} <= {*table}
    assert table["imagePath"] == "../photos/x.png" and table["shapes"]
    for shape in table["shapes"]:
        assert {"label", "points", "shape_type", "flags", "group_id", "mask"} <= {*shape}
        corners = np.array(shape["points"])
        assert corners.ndim == 2 and corners.shape[1] == 2 and corners.min() >= 0
        assert shape["shape_type"] == "polygon" or len(corners) == 2
        assert "confidence 0.75" in shape["description"]


@oracles.PROPERTY
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_outlines_hold_exactly_the_pixels(height, width, seed):
    """Whatever the mask, single pixels, diagonals and holes among them."""
    mask = np.random.default_rng(seed).random((height, width)) > 0.4
    found = outlines(mask)
    union = np.zeros_like(mask)
    for area in found:
        pixels = area.pixels(mask.shape)
        assert not (union & pixels).any(), "parts overlap"
        union |= pixels
        rows, columns = np.array([point for ring in (*area.parts, *area.holes) for point in ring], int).T[::-1]
        assert mask[rows, columns].all(), "corners lie on pixels of the region"
    np.testing.assert_array_equal(union, mask)


def test_small_parts_are_left_out_and_confidence_is_that_of_the_part():
    classes = np.zeros((20, 20), int)
    classes[2:8, 2:8], classes[15, 15] = 1, 1
    confidence = np.full((20, 20), 0.5, np.float32)
    confidence[2:8, 2:8] = 0.9
    (one,) = regions(classes, confidence, NAMES, 20)
    assert one.label == "apple" and one.confidence == pytest.approx(0.9)
    assert one.area == Polygon([[(2, 2), (7, 2), (7, 7), (2, 7)]]) or len(one.area.parts[0]) == 4
    assert len(regions(classes, confidence, NAMES, 1)) == 2


def test_without_a_region_a_draft_is_empty(tmp_path):
    classes = np.zeros((8, 8), int)
    for name in (*EACH, *JOINT):
        assert drafted(name, classes, tmp_path) == []
    assert json.loads((tmp_path / "annotations.json").read_text())["annotations"] == []
    assert (tmp_path / "x.txt").read_text() == ""

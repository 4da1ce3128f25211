"""The layouts of ADE20K and COCO: which files are found, and which class a mask's value is."""

import numpy as np
import pytest
from PIL import Image

from farcluss.data.accounting import Reason
from farcluss.data.ade20k import ADE20K_CLASSES, ade20k
from farcluss.data.coco import COCO_CLASSES, coco
from farcluss.errors import DataError
from farcluss.recipes.model import Data

SIZE = (4, 5)


def write(root, images, masks, stems, values):
    for folder in (images, masks):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for stem in stems:
        Image.new("RGB", SIZE[::-1]).save(root / images / f"{stem}.jpg")
        Image.fromarray(np.resize(np.array(values, np.uint8), SIZE)).save(root / masks / f"{stem}.png")


@pytest.fixture(params=["ade20k", "coco"])
def tree(request, tmp_path):
    """A folder of each data set: layout, root, names of training and validation images, and a line of its lists."""
    if request.param == "ade20k":
        train, val = ["ADE_train_00000001", "ADE_train_00000002"], ["ADE_val_00000001"]
        write(tmp_path, "images/training", "annotations/training", train, [0, 1, 150, 255])
        write(tmp_path, "images/validation", "annotations/validation", val, [0, 1, 150, 255])
        lines = [f"images/training/{train[0]}.jpg annotations/training/{train[0]}.png", train[0]]
        return ade20k, tmp_path, train, val, lines
    train, val = ["000000000009", "000000000025"], ["000000000139"]
    write(tmp_path, "train2017", "masks", train, [0, 1, 80, 255])
    write(tmp_path, "val2017", "masks", val, [0, 1, 80, 255])
    return coco, tmp_path, train, val, [f"train2017/{train[0]}.jpg masks/{train[0]}.png", train[0]]


def test_items_of_both_splits_with_their_masks(tree):
    layout, root, train, val, lines = tree
    dataset = layout(Data(root=root))
    assert [item.id.rpartition("/")[2] for item in dataset.items("train")] == train
    assert [item.id.rpartition("/")[2] for item in dataset.items("val")] == val
    assert all(item.mask for split in ("train", "val") for item in dataset.items(split))
    for line in lines:
        assert dataset.parse(line) == dataset.items("train")[0]
    with pytest.raises(DataError, match="This data set has no 'test' images"):
        dataset.items("test")


@pytest.mark.parametrize(
    ("layout", "options", "classes", "read"),
    [
        ("ade20k", {}, 150, [255, 0, 149, 255]),
        ("ade20k", {"labels": "shifted"}, 150, [0, 1, None, 255]),
        ("coco", {}, 81, [0, 1, 80, 255]),
        ("coco", {"background": False}, 80, [255, 0, 79, 255]),
    ],
)
@pytest.mark.parametrize("tree", ["ade20k", "coco"], indirect=True)
def test_classes_of_mask_values(tree, layout, options, classes, read):
    build, root, *_ = tree
    if build.__name__ != layout:
        return
    dataset = build(Data(root=root), **options)
    assert len(dataset.classes) == classes
    item = dataset.items("train")[0]
    if None in read:  # a value that masks of this kind do not have
        with pytest.raises(DataError, match="150"):
            dataset.read(item)
    else:
        assert np.array_equal(dataset.read(item).mask, np.resize(np.array(read, np.uint8), SIZE))


def test_names_stand_in_their_published_order():
    assert (len(ADE20K_CLASSES), len(COCO_CLASSES)) == (len(set(ADE20K_CLASSES)), len(set(COCO_CLASSES))) == (150, 80)
    assert [ADE20K_CLASSES[n] for n in (0, 2, 12, 20, 149)] == ["wall", "sky", "person", "car", "flag"]
    assert [COCO_CLASSES[n] for n in (0, 2, 15, 79)] == ["person", "car", "cat", "toothbrush"]


def test_own_classes_replace_those_of_the_layout(tree):
    layout, root, *_ = tree
    dataset = layout(Data(root=root, classes={"rest": [0, 150, 80], "one": 1}))
    assert dataset.classes == ("rest", "one")
    assert dataset.read(dataset.items("train")[0]).mask.flatten().tolist()[:4] == [0, 1, 0, 255]


def test_an_image_without_a_mask_is_unlabeled_and_a_mask_without_an_image_is_told(tree):
    layout, root, *_ = tree
    dataset = layout(Data(root=root))
    first = dataset.items("train")[0]
    (root / first.mask).rename((root / first.mask).with_name("lost.png"))
    assert dataset.items("train")[0].mask is None and dataset.items("train")[1].mask is not None
    items = [*dataset.items("train"), *dataset.items("val")]
    passed = [*dataset.passed(dataset, {path for item in items for path in (item.image, item.mask)})]
    assert [entry.path.name for entry in passed] == ["lost.png"] and passed[0].reason is not Reason.DENIED


def test_a_missing_folder(tree, tmp_path):
    layout, *_ = tree
    with pytest.raises(DataError, match=r"has no folder .*\nSet it to the folder"):
        layout(Data(root=tmp_path / "none"))

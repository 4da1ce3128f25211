"""Exports as annotation tools write them, drawn by the tests, against pixels that another rule gives."""

import base64
import csv
import io
import json
import zlib

import numpy as np
import pytest
from exports import CLASSES, DRAWN, SCENES, SIZE, coco, cvat_xml, labelme, photo, truth, write_json
from PIL import Image
from pycocotools import mask as coder

from farcluss.annotations.formats import FORMATS, formats_in
from farcluss.data.base import IGNORE
from farcluss.errors import FarclussError
from farcluss.learning.build import build_dataset
from farcluss.recipes.model import Data


def data_of(root, layout, **values):
    return Data(root=str(root), layout=layout, **values)


def built(root, name, classes=None, **options):
    return build_dataset(data_of(root, {"name": name, **options}, classes=classes))


@pytest.mark.parametrize("name", DRAWN)
def test_polygons_become_the_pixels_that_another_rule_gives(name, tmp_path):
    DRAWN[name](tmp_path)
    dataset = built(tmp_path, name, empty="unlabeled")
    assert [each.layout for each in formats_in(tmp_path)] == [name]
    assert dataset.classes == ("background", *CLASSES) and dataset.defaults.mask_values == [0, 1, 2]
    items = {item.id.rpartition("/")[2]: item for item in dataset.items("train")}
    assert {key: item.mask is not None for key, item in items.items()} == {"a": True, "b": True, "bare": False}
    for key, scene in SCENES.items():
        found, (wanted, sure) = dataset.read(items[key]).mask, truth(scene)
        np.testing.assert_array_equal(found[sure], wanted[sure] + 1)
        assert sure.mean() > 0.6
        part = dataset.read(items[key], (slice(3, 30), slice(10, 64)))
        np.testing.assert_array_equal(part.mask, found[3:30, 10:64])
        assert part.image.shape == (3, 27, 54)


@pytest.mark.parametrize("name", DRAWN)
def test_an_image_without_annotation_is_what_the_key_says(name, tmp_path):
    DRAWN[name](tmp_path)
    with pytest.raises(FarclussError, match=r"1 of 3 images have no area.*bare(.|\n)*data\.layout\.empty"):
        built(tmp_path, name)
    dataset = built(tmp_path, name, empty="background")
    item = next(item for item in dataset.items("train") if "bare" in item.id)
    assert not dataset.read(item).mask.any()


@pytest.mark.parametrize("name", DRAWN)
def test_classes_are_chosen_by_name(name, tmp_path):
    DRAWN[name](tmp_path)
    dataset = built(tmp_path, name, ["leaf", "background"], empty="unlabeled", ignore=["apple"])
    item = next(item for item in dataset.items("train") if item.id.endswith("a"))
    (wanted, sure), found = truth(SCENES["a"]), dataset.read(item).mask
    np.testing.assert_array_equal(found[sure], np.array([IGNORE, 0, 1])[wanted[sure]])
    for classes, text in (
        (["background", "leaf"], "lacks apple"),
        (["background", "laef"], "did you mean 'leaf'"),
        (["apple", "leaf"], "lacks background"),
        ({"x": 1, "y": 2}, "by name"),
    ):
        with pytest.raises(FarclussError, match=text):
            built(tmp_path, name, classes, empty="unlabeled")


@pytest.mark.parametrize("name", DRAWN)
def test_a_lost_image_is_named(name, tmp_path):
    DRAWN[name](tmp_path)
    next(tmp_path.rglob("a.png")).unlink()
    if name == "yolo":  # which lists images, not labels
        assert "a" not in {item.id[-1] for item in built(tmp_path, name, empty="unlabeled").items("train")}
        return
    with pytest.raises(FarclussError, match=r"1 of \d images? of .* are not below .*a\.png"):
        built(tmp_path, name, empty="unlabeled")


BLOB = np.random.default_rng(3).random((17, 23)) > 0.4
BLOB[0, 0] = BLOB[-1, -1] = True
"""Pixels that no polygon has, with its upper left corner at (20, 9)."""


def placed():
    mask = np.zeros(SIZE, bool)
    mask[9 : 9 + 17, 20 : 20 + 23] = BLOB
    return mask


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def alternating(mask, order):
    """Lengths of runs of a flat mask, counted one by one."""
    lengths, on = [0], False
    for value in mask.ravel(order).tolist():
        if value != on:
            lengths.append(0)
            on = value
        lengths[-1] += 1
    return lengths


def brush(mask):
    """Label Studio's packed bits, every byte written out, in runs of eight or less."""
    values = np.repeat(mask.ravel(), 4).astype(np.uint8) * 255
    bits = f"{values.size:032b}{7:05b}" + f"{2:04b}" * 4
    for start in range(0, values.size, 8):
        part = values[start : start + 8]
        bits += f"0{3:02b}{len(part) - 1:03b}" + "".join(f"{value:08b}" for value in part)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def coco_table(segmentation, crowd=0):
    found = {"id": 1, "image_id": 1, "category_id": 2, "iscrowd": crowd, "segmentation": segmentation}
    image = {"id": 1, "file_name": "x.png", "height": 48, "width": 64}
    return {"images": [image], "annotations": [found], "categories": [{"id": 2, "name": "leaf"}]}


def compressed(root):
    found = coder.encode(np.asfortranarray(placed().astype(np.uint8)))
    write_json(root / "x.json", coco_table({"size": list(SIZE), "counts": found["counts"].decode()}))


def uncompressed(root):
    write_json(root / "x.json", coco_table({"size": list(SIZE), "counts": alternating(placed(), "F")}, crowd=1))


def labelme_mask(root):
    shape = {
        "label": "leaf",
        "points": [[20, 9], [42, 25]],
        "shape_type": "mask",
        "mask": base64.b64encode(png(BLOB)).decode(),
    }
    table = {"version": "5.5.0", "shapes": [shape], "imagePath": "..\\x.png", "imageData": None}
    write_json(root / "x.json", table | {"imageHeight": 48, "imageWidth": 64})


def cvat_mask(root):
    rle = ", ".join(map(str, alternating(BLOB, "C")))
    shape = f'<mask label="leaf" rle="{rle}" left="20" top="9" width="23" height="17" z_order="0"/>'
    (root / "x.xml").write_text(
        f'<annotations><image id="0" name="x.png" width="64" height="48">{shape}</image></annotations>'
    )


def label_studio_brush(root):
    value = {"format": "rle", "rle": brush(placed()), "brushlabels": ["leaf"]}
    result = {"type": "brushlabels", "original_width": 64, "original_height": 48, "value": value}
    old = {"was_cancelled": True, "result": []}
    write_json(
        root / "x.json", [{"id": 4, "annotations": [{"result": [result]}, old], "data": {"image": "s3://photos/x.png"}}]
    )


def label_studio_pictures(root):
    alpha = np.zeros((*SIZE, 4), np.uint8)
    alpha[placed()] = 255
    name = "task-12-annotation-3-by-some-one@lab.org-tag-leaf-0.png"
    Image.fromarray(alpha).save(root / name)
    write_json(root / "tasks.json", [{"id": 12, "data": {"image": "/data/upload/1/0a1b2c3d-x.png"}}])


def supervisely_bitmap(root):
    color = np.zeros((17, 23, 4), np.uint8)
    color[BLOB] = 255
    data = base64.b64encode(zlib.compress(png(color))).decode()
    (root / "x.png").rename((root / "ds" / "img").mkdir(parents=True) or root / "ds" / "img" / "x.png")
    write_json(root / "meta.json", {"classes": [{"title": "leaf", "color": "#00FF00"}]})
    shape = {"classTitle": "leaf", "geometryType": "bitmap", "bitmap": {"data": data, "origin": [20, 9]}}
    write_json(root / "ds" / "ann" / "x.png.json", {"size": {"height": 48, "width": 64}, "objects": [shape]})


BITMAPS = {
    "compressed": ("coco-json", compressed),
    "uncompressed": ("coco-json", uncompressed),
    "labelme": ("labelme", labelme_mask),
    "cvat": ("cvat-xml", cvat_mask),
    "brush": ("label-studio", label_studio_brush),
    "brush in a picture": ("label-studio-png", label_studio_pictures),
    "supervisely": ("supervisely", supervisely_bitmap),
}


@pytest.mark.parametrize("kind", BITMAPS)
def test_pixels_are_kept_to_the_last(kind, tmp_path):
    name, write = BITMAPS[kind]
    photo(tmp_path / "x.png")
    write(tmp_path)
    dataset = built(tmp_path, name)
    (item,) = dataset.items("train")
    np.testing.assert_array_equal(dataset.read(item).mask, placed())


@pytest.mark.parametrize("kind", BITMAPS)
def test_a_damaged_export_is_named(kind, tmp_path):
    """Whatever byte is lost: either the file can still be read, or an error of ours names it."""
    name, write = BITMAPS[kind]
    photo(tmp_path / "x.png")
    write(tmp_path)
    path = next(
        path for path in sorted(tmp_path.rglob("*.*")) if path.suffix in (".json", ".xml") and path.name != "meta.json"
    )
    text = path.read_text()
    for cut in range(0, len(text), max(1, len(text) // 60)):
        path.write_text(text[:cut] + text[cut + 7 :])
        try:
            dataset = built(tmp_path, name, file=None if name == "supervisely" else path.name)
            for item in dataset.items("train"):
                if item.mask:
                    dataset.read(item)
        except FarclussError as error:
            assert str(tmp_path) in str(error) or "data." in str(error)


@pytest.mark.parametrize(
    ("segmentation", "text"),
    [
        ([], "only a box"),
        ({"size": [48, 64], "counts": [10, 5, 100]}, "run lengths of 115 pixels"),
        ({"size": [4, 4], "counts": [16]}, "run lengths for"),
        ({"size": [48, 64], "counts": "!!"}, "Invalid RLE"),
    ],
)
def test_what_coco_files_may_have_wrong(segmentation, text, tmp_path):
    photo(tmp_path / "x.png")
    write_json(tmp_path / "x.json", coco_table(segmentation))
    with pytest.raises(FarclussError, match=text):
        built(tmp_path, "coco-json")


def test_an_annotation_of_an_image_of_another_size_is_refused(tmp_path):
    photo(tmp_path / "x.png")
    compressed(tmp_path)
    Image.new("RGB", (48, 64)).save(tmp_path / "x.png")
    dataset = built(tmp_path, "coco-json")
    with pytest.raises(FarclussError, match=r"64 x 48 pixels, but .* has 48 x 64"):
        dataset.read(dataset.items("train")[0])


@pytest.mark.parametrize("kind", ["line", "linestrip", "point", "points"])
def test_what_has_no_area_is_refused(kind, tmp_path):
    labelme(tmp_path)
    path = tmp_path / "a.json"
    path.write_text(path.read_text().replace("polygon", kind, 1))
    with pytest.raises(FarclussError, match=f"a.json .*a {kind} has no area"):
        built(tmp_path, "labelme", empty="unlabeled")


def test_splits_of_coco_are_told_by_folders(tmp_path):
    for split in ("train", "valid", "test"):
        coco(tmp_path / split)
        (tmp_path / split / "annotations" / "instances_default.json").rename(
            tmp_path / split / "_annotations.coco.json"
        )
        for path in (tmp_path / split / "images").iterdir():
            path.rename(tmp_path / split / path.name)
    dataset = built(tmp_path, "coco-json", empty="unlabeled")
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        assert {item.id for item in dataset.items(split)} == {f"{folder}/{name}" for name in ("a", "b", "bare")}


def test_a_coco_file_is_known_whatever_table_comes_first(tmp_path):
    coco(tmp_path)
    path = next(tmp_path.rglob("*.json"))
    table = json.loads(path.read_text())
    table["annotations"][0]["note"] = "long" * 40_000
    path.write_text(json.dumps({key: table[key] for key in ("annotations", "categories", "images")}))
    assert [each.layout for each in formats_in(tmp_path)] == ["coco-json"]
    assert len(built(tmp_path, "coco-json", empty="unlabeled").items("train")) == 3


def test_a_label_that_the_list_lacks_is_a_class_all_the_same(tmp_path):
    cvat_xml(tmp_path)
    path = tmp_path / "annotations.xml"
    path.write_text(path.read_text().replace('label="leaf"', 'label="twig"'))
    assert built(tmp_path, "cvat-xml", empty="unlabeled").classes == ("background", "apple", "leaf", "twig")


# Masks that are there already, with a file of their values or colors.


def test_masks_of_cvat(tmp_path):
    colors = np.array([[0, 0, 0], [250, 50, 83], [12, 28, 0]], np.uint8)
    classes = np.random.default_rng(1).integers(0, 3, SIZE)
    photo(tmp_path / "JPEGImages" / "a.png")
    photo(tmp_path / "JPEGImages" / "b.png")
    (tmp_path / "SegmentationClass").mkdir()
    Image.fromarray(colors[classes]).save(tmp_path / "SegmentationClass" / "a.png")
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::", "car:250,50,83::", "road:12,28,0::"]
    (tmp_path / "labelmap.txt").write_text("\n".join(lines))
    assert [each.layout for each in formats_in(tmp_path)] == ["cvat-masks"]
    dataset = built(tmp_path, "cvat-masks")
    assert dataset.classes == ("background", "car", "road") and dataset.palette == tuple(map(tuple, colors.tolist()))
    first, second = dataset.items("train")
    np.testing.assert_array_equal(dataset.read(first).mask, classes)
    assert second.mask is None
    (tmp_path / "labelmap.txt").write_text("car-250,50,83")
    with pytest.raises(FarclussError, match=r"labelmap\.txt, line 1"):
        built(tmp_path, "cvat-masks")


def test_masks_of_roboflow(tmp_path):
    classes = np.random.default_rng(1).integers(0, 3, SIZE).astype(np.uint8)
    for split in ("train", "valid"):
        for name in ("a", "b"):
            photo(tmp_path / split / f"{name}_jpg.rf.0123.jpg")
            Image.fromarray(classes).save(tmp_path / split / f"{name}_jpg.rf.0123_mask.png")
        with (tmp_path / split / "_classes.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("Pixel Value", " Class"), (0, " background"), (1, " weed"), (2, " crop")])
    assert [each.layout for each in formats_in(tmp_path)] == ["roboflow-masks"]
    dataset = built(tmp_path, "roboflow-masks")
    assert dataset.classes == ("background", "weed", "crop")
    for split in ("train", "val"):
        items = dataset.items(split)
        assert len(items) == 2 and all(item.mask for item in items)
        np.testing.assert_array_equal(dataset.read(items[0]).mask, classes)


def test_every_format_is_tested():
    assert {*FORMATS} == {*DRAWN, *(name for name, _ in BITMAPS.values()), "cvat-masks", "roboflow-masks"}


def test_a_brush_of_an_unknown_task_is_named(tmp_path):
    photo(tmp_path / "x.png")
    label_studio_pictures(tmp_path)
    (tmp_path / "tasks.json").write_text('[{"id": 1, "data": {"image": "x.png"}}]')
    with pytest.raises(FarclussError, match=r"is of task 12, which no JSON file"):
        built(tmp_path, "label-studio-png")

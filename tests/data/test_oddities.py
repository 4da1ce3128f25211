"""Files that can be read one by one, and look wrong together: what is said, once for each cause."""

import numpy as np
import pytest
from PIL import Image

from farcluss.data.base import Item
from farcluss.data.masks import build_mask_map
from farcluss.data.oddities import oddities
from farcluss.recipes.model import Data

LABELS = np.arange(12).reshape(3, 4) % 3
BY_COLOR = {"a": "#ff0000", "b": "#00ff00", "c": "#0000ff"}


def said(folder, save, count=3, classes=("a", "b", "c")):
    """What is said of images and masks that `save(number, image path, mask path)` writes."""
    items = []
    for number in range(count):
        paths = folder / f"i{number}.png", folder / f"m{number}.png"
        Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(paths[0])
        save(number, *paths)
        items.append(Item(str(number), *map(str, paths)))
    kinds = classes if isinstance(classes, dict) else list(classes)
    return oddities([*items, Item("gone", "gone.png", "gone.npy")], build_mask_map(Data(classes=kinds), {}))


def palette_mask(path, colors, labels=LABELS, order=(0, 1, 2)):
    """Labels with a palette in another order, so that the colors of pixels are those of `colors` all the same."""
    image = Image.fromarray(np.argsort(order)[labels].astype(np.uint8))
    image.putpalette([part for index in order for part in colors[index]] + [9] * 3 * (len(path.name) % 5))
    image.save(path)


COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


@pytest.mark.parametrize(
    ("odd", "changes", "classes"),
    [
        (True, {"order": (0, 2, 1)}, "abc"),
        (True, {"colors": [COLORS[0], COLORS[1], (1, 2, 3)]}, "abc"),
        (False, {"order": (0, 2, 1)}, BY_COLOR),
        (False, {"colors": [COLORS[0], COLORS[1], (1, 2, 3)], "labels": LABELS % 2}, "abc"),  # not used
        (False, {"colors": [(0, 0, 0), (1, 1, 1), (2, 2, 2)]}, "abc"),  # gray says nothing
    ],
)
def test_one_index_with_two_colors(tmp_path, odd, changes, classes):
    def save(number, image, mask):
        palette_mask(mask, **{"colors": COLORS, **(changes if number == 1 else {})})

    found = said(tmp_path, save, classes=classes)
    assert len(found) == odd
    if odd:
        assert "1 of 3 masks" in found[0] and str(tmp_path / "m1.png") in found[0] and "data.classes" in found[0]


@pytest.mark.parametrize(
    ("odd", "orientation", "size", "mask_too"),
    [
        (True, 3, (4, 3), False),
        (True, 6, (4, 4), False),
        (False, 6, (4, 3), False),  # the sizes would tell
        (False, 3, (4, 3), True),
        (False, 1, (4, 3), False),
    ],
)
def test_images_that_are_turned_while_their_masks_are_not(tmp_path, odd, orientation, size, mask_too):
    exif = Image.Exif()
    exif[0x0112] = orientation

    def save(number, image, mask):
        Image.new("RGB", size).save(image, exif=exif)
        Image.new("L", size).save(mask, **({"exif": exif} if mask_too else {}))

    found = said(tmp_path, save)
    assert len(found) == odd
    if odd:
        assert "3 files are turned" in found[0] and str(tmp_path / "i0.png") in found[0]


@pytest.mark.parametrize(
    ("odd", "classes"), [(True, "ab"), (False, {"a": 0, "b": 255}), (False, {"a": 0, "b": [1, 255]})]
)
def test_white_of_one_bit_beside_white_of_eight(tmp_path, odd, classes):
    def save(number, image, mask):
        array = LABELS > 1
        Image.fromarray(array if number == 1 else array * np.uint8(255)).save(mask)

    found = said(tmp_path, save, classes=classes)
    assert len(found) == odd
    if odd:
        assert "2 files hold 0 and 255, which is ignored" in found[0] and "m1.png" in found[0]


def test_several_pages(tmp_path):
    def save(number, image, mask):
        page = Image.fromarray(LABELS.astype(np.uint8))
        page.save(mask, "TIFF", save_all=True, append_images=[page] * (number > 0))

    (text,) = said(tmp_path, save)
    assert "2 files have several pages" in text and "m1.png" in text

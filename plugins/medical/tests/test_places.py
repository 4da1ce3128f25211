"""Where crops lie: around the tumor by the chance that the recipe gives, inside the brain where nothing is labeled."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import Phantom, write_image, write_label, write_nifti
from volume_data import build

from farcluss.data.base import Item
from farcluss_medical.crops import around, foreground, nonzero_box, within
from farcluss_medical.layouts import scans

SMALL = (24.0, 28.0, 20.0)
CLASSES = {"background": 0, "core": 1, "edema": 2, "enhancing": 4}
DRAWS = 300


def window(start, lengths, size):
    """A crop as far as it lies in the image."""
    return tuple(slice(max(s, 0), min(s + n, e)) for s, n, e in zip(start, lengths, size, strict=True))


def dataset_of(root, **options):
    return build(scans, root, classes=CLASSES, unlabeled="images", **options)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A labeled case with a tiny enhancing tumor, one without tumor, an unlabeled one."""
    root = tmp_path_factory.mktemp("places") / "root"
    for name, phantom in (("a", Phantom(0, extent=SMALL)), ("b", Phantom(1, tumor=False, extent=SMALL))):
        write_image(root / f"images/{name}.nii.gz", phantom.scan())
        write_label(root / f"labels/{name}.nii.gz", phantom.scan())
    write_image(root / "images/c.nii.gz", Phantom(2, extent=SMALL).scan())
    return root


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("chance", [0.0, 0.4, 1.0])
def test_labeled_crops_contain_foreground_by_the_chance(root, dimensions, chance):
    dataset = dataset_of(root, foreground=chance, dimensions=dimensions)
    items = [item for item in dataset.items("train") if item.group == "a"]
    masks = {item.id: dataset.read(item).mask for item in items}
    item = max(items, key=lambda item: (masks[item.id] > 0).sum())
    mask, lengths, rng = masks[item.id], (3,) * dimensions, np.random.default_rng(0)

    def hits(data):
        places = [data.place(item, lengths, rng) for _ in range(DRAWS)]
        for place in places:
            assert all(0 <= start <= side - 3 for start, side in zip(place, mask.shape, strict=True))
        return np.mean([mask[window(place, lengths, mask.shape)].any() for place in places])

    base = hits(dataset_of(root, foreground=0.0, dimensions=dimensions))
    expected = chance + (1 - chance) * base
    assert base < 0.5 and abs(hits(dataset) - expected) < 4 * (0.25 / DRAWS) ** 0.5
    if chance == 1:
        assert hits(dataset) == 1


def test_rare_classes_are_drawn_as_often_as_common_ones(root):
    dataset = dataset_of(root, foreground=1.0)
    item = dataset.items("train")[0]
    mask, rng = dataset.read(item).mask, np.random.default_rng(1)
    sizes = [(mask == kind).sum() for kind in (1, 2, 3)]
    assert max(sizes) > 2 * min(sizes)
    found = [mask[tuple(dataset.place(item, (1, 1, 1), rng))] for _ in range(DRAWS)]
    counts = np.bincount(found, minlength=4)
    assert counts[0] == 0 and (np.abs(counts[1:] / DRAWS - 1 / 3) < 4 * (2 / 9 / DRAWS) ** 0.5).all()


def test_a_case_without_foreground_and_unlabeled_ones_stay_in_what_is_not_zero(root):
    dataset = dataset_of(root, foreground=1.0)
    for item in dataset.items("train")[1:]:
        image, rng, lengths = dataset.read(item).image, np.random.default_rng(2), (5, 6, 4)
        low, high = nonzero_box(image)
        assert all(0 < first and last < side for first, last, side in zip(low, high, image.shape[1:], strict=True))
        places = np.array([dataset.place(item, lengths, rng) for _ in range(DRAWS)])
        assert (places >= low).all() and (places + lengths <= high).all()
        assert (places.min(0) == low).all() and (places.max(0) + lengths == high).all(), "all of it is reached"


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_label_of_an_item_without_mask_does_not_matter(root, dimensions):
    """The same places, drawn from the image alone, whatever the case's label holds."""
    dataset = dataset_of(root, foreground=1.0, dimensions=dimensions)
    item = [item for item in dataset.items("train") if item.group == "a"][10 if dimensions == 2 else 0]
    bare = Item(item.id, item.image, None, item.group)
    image = dataset.read(bare).image
    low, high = nonzero_box(image)
    lengths = (4,) * dimensions
    for seed in range(20):
        found = dataset.place(bare, lengths, np.random.default_rng(seed))
        assert found == within(low, high, image.shape[1:], lengths, np.random.default_rng(seed))


def test_crops_larger_than_the_image_and_an_empty_image(root, tmp_path):
    dataset = dataset_of(root)
    for item in dataset.items("train"):
        for seed in range(20):
            place = dataset.place(item, (40, 6, 30), np.random.default_rng(seed))
            size = dataset.size(item)
            assert size[0] - 40 <= place[0] <= 0 and 0 <= place[1] <= size[1] - 6 and size[2] - 30 <= place[2] <= 0
    write_nifti(tmp_path / "root/images/x.nii.gz", np.zeros((6, 7, 8), np.int16), np.eye(4))
    (tmp_path / "root/labels").mkdir()
    empty = dataset_of(tmp_path / "root")
    starts = {empty.place(empty.items("train")[0], (6, 6, 6), np.random.default_rng(seed)) for seed in range(60)}
    assert starts == {(0, y, z) for y in range(2) for z in range(3)}


@given(data=st.data(), axes=st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_windows_contain_their_spot_and_stay_inside(data, axes):
    size = data.draw(st.tuples(*[st.integers(1, 12)] * axes))
    lengths = data.draw(st.tuples(*[st.integers(1, 16)] * axes))
    spot = tuple(data.draw(st.integers(0, side - 1)) for side in size)
    seed = data.draw(st.integers(0, 9))
    for start, length, side, place in zip(
        around(spot, size, lengths, np.random.default_rng(seed)), lengths, size, spot, strict=True
    ):
        assert start <= place < start + length
        assert (0 <= start <= side - length) if length <= side else (side - length <= start <= 0)
    low = tuple(data.draw(st.integers(0, side - 1)) for side in size)
    high = tuple(data.draw(st.integers(first + 1, side)) for first, side in zip(low, size, strict=True))
    starts = within(low, high, size, lengths, np.random.default_rng(seed))
    for start, length, side, first, last in zip(starts, lengths, size, low, high, strict=True):
        assert (0 <= start <= side - length) if length <= side else (side - length <= start <= 0)
        if last - first >= length:
            assert first <= start and start + length <= last
        else:
            assert start <= first and last <= start + length


@pytest.mark.parametrize("seed", range(5))
def test_foreground_and_box_are_those_of_numpy(seed):
    rng = np.random.default_rng(seed)
    mask = rng.choice([0, 1, 2, 255], (5, 6, 7), p=[0.7, 0.1, 0.1, 0.1]).astype(np.uint8)
    spots = foreground(mask, 3)
    assert {tuple(row) for row in spots} == {(mask[i], *i) for i in np.ndindex(mask.shape) if mask[i] in (1, 2)}
    image = np.zeros((2, 8, 9, 10))
    image[1, 2:4, 5, 3:9:5] = -1
    assert nonzero_box(image) == ([2, 5, 3], [4, 6, 9])

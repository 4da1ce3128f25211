"""JPEGs decoded smaller: the same window and masks as decoded whole, pixels nearly, and none of them elsewhere."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from farcluss.data.base import Item, Sample
from farcluss.data.crops import draw_crop, read_reduced, read_window, resize
from farcluss.data.folder import folder
from farcluss.data.loader import LABELED, UNLABELED, Address, PairedCrops, collate
from farcluss.errors import DataError
from farcluss.recipes.model import Data

MEAN = [0.485, 0.456, 0.406]
SLOPES = np.array([[0.9, 0.9], [1.2, 0.5], [0.3, 1.4]])
"""Of the colors' values, per row and column."""
TURNS = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
         5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
         8: lambda a: np.rot90(a, -1)}  # fmt: skip
"""From an upright image to the stored one of each EXIF orientation."""


def ramp(rows, columns):
    """Values `(3, H, W)` of the picture at places that may lie between pixels, whose centers are at whole numbers."""
    return SLOPES[:, :1, None] * rows[:, None] + SLOPES[:, 1:, None] * columns


def write(root, name, size, orientation=1, mask=True, **options):
    """A picture of ramps of `size` as displayed, with a mask whose every pixel is known by its class."""
    array = ramp(np.arange(size[0]), np.arange(size[1])).transpose(1, 2, 0).round().astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("images", "masks"):
        (root / kind).mkdir(exist_ok=True, parents=True)
    stored = np.ascontiguousarray(TURNS[orientation](array))
    options = {"quality": 100, "subsampling": 0} | options
    Image.fromarray(stored).save(root / "images" / name, exif=exif, **(options if name.endswith("jpg") else {}))
    if mask:
        values = np.add.outer(np.arange(size[0]) * 5, np.arange(size[1])) % 7
        Image.fromarray(values.astype(np.uint8)).save((root / "masks" / name).with_suffix(".png"))
    return Item(name, str(root / "images" / name), str((root / "masks" / name).with_suffix(".png")) if mask else None)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("ramps")
    sizes = [(96, 104), (89, 111), (91, 101), (93, 107)]
    items = {(turn, size): write(root, f"{turn} {size[0]}.jpg", size, turn) for turn in TURNS for size in sizes}
    return folder(Data(root=root, classes=[str(n) for n in range(7)])), items


ROUNDING = 0.5 * (1 + 1 + 1.772 + 1 + 1)
"""Of the picture, of its luma, of its chroma (which blue has 1.772 times), of the decoded colors, and of the crop."""
INNER = slice(None), slice(1, -1), slice(1, -1)
"""Without the edges, where a filter has one side only."""


def centers(place, crop):
    """Where in the source the pixels of a crop have their centers, per axis."""
    return [start + (np.arange(side) + 0.5) * n / side - 0.5 for (start, n), side in zip(place, crop, strict=True)]


def both(dataset, item, place, crop):
    reduced = read_reduced(dataset, item, place, crop, MEAN)
    whole = resize(read_window(dataset, item, place, MEAN), crop)
    assert np.array_equal(reduced.mask, whole.mask) and np.array_equal(reduced.valid, whole.valid)
    assert (reduced.image.shape, reduced.image.dtype) == (whole.image.shape, whole.image.dtype)
    return reduced.image.astype(float), whole.image.astype(float)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_every_value_is_where_it_belongs(pictures, data):
    """Of a ramp the value at each place is known; a shift by one pixel of the source would show."""
    dataset, items = pictures
    turn, size = data.draw(st.sampled_from(sorted(items)))
    crop = data.draw(st.integers(5, 11)), data.draw(st.integers(5, 11))
    place = []
    for extent, side in zip(size, crop, strict=True):
        length = data.draw(st.integers(2 * side, extent))
        place.append((data.draw(st.integers(0, extent - length)), length))
    reduced, whole = both(dataset, items[turn, size], place, crop)
    assert np.abs(reduced - whole).max() <= 4
    # Pixels that stand for fewer at the image's edge are farther off.
    edge = any(start < 8 or start + n > extent - 8 for (start, n), extent in zip(place, size, strict=True))
    assert np.abs(reduced - ramp(*centers(place, crop)))[INNER].max() < ROUNDING + (0.7 if edge else 0)


@pytest.mark.parametrize("crop", [(22, 25), (13, 12), (7, 7)])
@pytest.mark.parametrize("turn", TURNS)
def test_nothing_is_shifted(turn, crop, pictures):
    """By a third of a source's pixel at most, in the mean, which rounding does not move."""
    dataset, items = pictures
    for (orientation, size), item in items.items():
        if orientation == turn:
            place = [(9, size[0] - 19), (10, size[1] - 19)]
            reduced, _ = both(dataset, item, place, crop)
            error = (reduced - ramp(*centers(place, crop)))[INNER].mean((1, 2))
            assert (np.abs(np.linalg.lstsq(SLOPES, error, rcond=None)[0]) < 0.34).all()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_windows_beyond_the_image(pictures, data):
    """What lies beyond is the mean, and not valid; the image is not moved by it."""
    dataset, items = pictures
    turn, size = data.draw(st.sampled_from(sorted(items)))
    crop = 12, 10
    place = []
    for extent in size:
        before, after = data.draw(st.integers(0, 60)), data.draw(st.integers(0, 60))
        place.append((-before, extent + before + after))
    reduced, whole = both(dataset, items[turn, size], place, crop)
    middles = centers(place, crop)
    reach = [n / side + 8 for (_, n), side in zip(place, crop, strict=True)]  # of the filter, and a reduced pixel
    inside = np.logical_and.outer(*((c > r) & (c < n - r) for c, r, n in zip(middles, reach, size, strict=True)))
    outside = np.logical_or.outer(*((c < -r) | (c > n + r) for c, r, n in zip(middles, reach, size, strict=True)))
    assert np.abs(reduced - ramp(*middles))[:, inside].max(initial=0) < 3.2
    assert np.array_equal(reduced[:, outside], whole[:, outside])


SMALLER = [(2, (45, 56)), (3, (45, 56)), (4, (23, 28)), (7, (23, 28)), (8, (12, 14)), (50, (12, 14))]


@pytest.mark.parametrize(("factor", "sides"), SMALLER)
def test_how_much_smaller(factor, sides, pictures):
    dataset, items = pictures
    found = dataset.read_reduced(items[1, (89, 111)], (slice(0, 89), slice(0, 111)), factor)
    assert found.image.shape == (3, *sides) and found.mask.shape == (89, 111)
    power = 2 ** (min(factor, 8).bit_length() - 1)
    assert found.box == ((0, 89 / power), (0, 111 / power))


@pytest.mark.parametrize(("length", "reduces"), [(39, False), (40, True)])
def test_only_where_the_crop_is_half_as_large(length, reduces, pictures):
    dataset, items = pictures
    crop = read_reduced(dataset, items[1, (96, 104)], [(3, 60), (5, length)], (20, 20), MEAN)
    assert (crop is not None) == reduces


def test_what_is_no_jpeg_or_not_from_files_is_read_as_always(tmp_path):
    dataset, item = folder(Data(root=tmp_path, classes=["a", "b"])), write(tmp_path, "x.png", (40, 40), mask=False)
    write(tmp_path, "y.png", (40, 40), mask=False)
    (tmp_path / "images" / "y.png").rename(tmp_path / "images" / "y.jpg")  # a PNG by another name

    class Plain:
        def size(self, item):
            return 40, 40

        def read(self, item, window):
            return Sample(np.zeros((3, *(w.stop - w.start for w in window)), np.uint8))

    named = Item("y", str(tmp_path / "images" / "y.jpg"))
    for source, one in ((dataset, item), (dataset, named), (Plain(), item)):
        assert read_reduced(source, one, [(0, 40), (0, 40)], (9, 9), MEAN) is None
        crops = [
            draw_crop(source, one, (9, 9), Data(scale=(0.2, 0.4), jpeg_draft=on), np.random.default_rng(3))
            for on in (False, True)
        ]
        assert np.array_equal(crops[0].image, crops[1].image)


@pytest.mark.parametrize(("channels", "mode"), [(1, "RGB"), (3, "L"), (1, "L"), (3, "RGB"), (4, "RGB")])
def test_colors(channels, mode, tmp_path):
    item = write(tmp_path, "x.jpg", (64, 80), mask=False)
    Image.open(item.image).convert(mode).save(item.image, quality=100, subsampling=2 if mode == "RGB" else -1)
    dataset = folder(Data(root=tmp_path, classes=["a", "b"], channels=channels))
    place = [(3, 60), (7, 70)]
    reduced = read_reduced(dataset, item, place, (12, 14), [0.5] * channels).image.astype(float)
    whole = resize(read_window(dataset, item, place, [0.5] * channels), (12, 14)).image
    assert reduced.shape == (channels, 12, 14)
    assert np.abs(reduced - whole)[:, 1:-1, 1:-1].max() <= 2


def test_the_draws_are_the_same(tmp_path):
    """Of a run with the option and one without, batches differ in pixels alone, and hardly."""
    for number in range(6):
        write(tmp_path, f"{number}.jpg", (90 + number, 111), number + 1, mask=number < 3)
    data = Data(root=tmp_path, classes=[str(n) for n in range(7)], scale=(0.1, 1.0), flip=0.5, crop=20)
    items = folder(data).items("train")
    batches = []
    for on in (False, True):
        chosen = data.model_copy(update={"jpeg_draft": on})
        crops = PairedCrops(folder(chosen), (items[:3], items[3:]), chosen, (20, 20), 8, 0)
        batches.append(collate([crops[Address(stream, 0, n)] for stream in (LABELED, UNLABELED) for n in range(8)]))
    (whole, drafted), difference = batches, (batches[0].images.int() - batches[1].images.int()).abs()
    assert all(torch.equal(a, b) for a, b in ((whole.masks, drafted.masks), (whole.valid, drafted.valid)))
    assert whole.ids == drafted.ids and whole.images.dtype == drafted.images.dtype == torch.uint8
    assert difference.amax((1, 2, 3)).gt(0).any() and difference.float().mean() < 1


def test_a_truncated_file_is_named(tmp_path):
    item = write(tmp_path, "x.jpg", (200, 200), mask=False)
    path = tmp_path / "images/x.jpg"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"x\.jpg cannot be decoded"):
        read_reduced(folder(Data(root=tmp_path, classes=["a", "b"])), item, [(0, 200), (0, 200)], (50, 50), MEAN)

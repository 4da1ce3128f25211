from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from farcluss.data.base import IGNORE, Item, Sample, read_sample
from farcluss.data.crops import draw_crop, pick, random_lengths, random_place, read_window, resize
from farcluss.errors import PluginError
from farcluss.recipes.model import Data

ITEM, MASKED = Item("x", "x"), Item("x", "x", "x")


def place_of(size, crop, scale, rng):
    return random_place(size, random_lengths(crop, scale, rng), rng)


class Memory:
    """A data set of one item in memory, which notes the windows that were read."""

    classes, palette = tuple(map(str, range(255))), ((0, 0, 0),) * 255

    def __init__(self, image, mask=None, valid=None):
        self.sample, self.windows = Sample(image, mask, valid), []

    def size(self, item):
        return self.sample.image.shape[1:]

    def read(self, item, window=None):
        self.windows.append(window)
        return Sample(*(None if array is None else array[(..., *window)] for array in self.sample))


def still(**changes):
    """Settings for crops of one channel at scale 1, not moved."""
    return Data(**{"channels": 1, "scale": (1, 1), "flip": 0} | changes)


def noise(*shape, high=256, seed=0):
    return np.random.default_rng(seed).integers(0, high, shape, dtype=np.uint8)


def pixels_by_number(*size):
    """An image whose pixels say where they come from."""
    return np.arange(np.prod(size), dtype=np.float32).reshape(1, *size) / np.float32(np.prod(size))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40)), min_size=1, max_size=3),
    st.floats(0.25, 4),
    st.floats(1, 3),
    st.integers(0, 2**32),
)
def test_a_window_has_the_crops_length_at_its_scale_and_touches_the_image(axes, low, ratio, seed):
    size, crop = zip(*axes, strict=True)
    scale = (low, low * ratio)
    for (start, length), extent, side in zip(
        place_of(size, crop, scale, np.random.default_rng(seed)), size, crop, strict=True
    ):
        assert max(1, round(side / scale[1])) <= length <= max(1, round(side / scale[0]))
        if length <= extent:
            assert 0 <= start <= extent - length
        else:
            assert start <= 0 and start + length >= extent


def test_scales_are_uniform_and_places_reach_both_borders():
    places = [place_of((1000, 40), (200, 100), (0.5, 2.0), np.random.default_rng(seed)) for seed in range(2000)]
    factors = np.array([200 / place[0][1] for place in places])
    counts, _ = np.histogram(factors, 5, (0.5, 2.0))
    assert (np.abs(counts - 400) < 5 * np.sqrt(400 * 0.8)).all()  # five standard deviations of a binomial
    shares = np.array([start / (1000 - length) for (start, length), _ in places])
    assert shares.min() < 0.02 and shares.max() > 0.98 and abs(shares.mean() - 0.5) < 0.05
    beyond = np.array([-start / (length - 40) for _, (start, length) in places if length > 60])
    assert beyond.min() == 0 and beyond.max() == 1 and abs(beyond.mean() - 0.5) < 0.05


def test_one_scale_serves_all_axes():
    for seed in range(20):
        (_, rows), (_, columns) = place_of((500, 500), (100, 100), (0.5, 2.0), np.random.default_rng(seed))
        assert rows == columns


def test_a_window_inside_is_the_slice_and_all_valid():
    image, mask = noise(3, 9, 11), noise(9, 11, high=2)
    dataset = Memory(image, mask)
    sample = read_window(dataset, MASKED, [(2, 5), (3, 4)], [0.5] * 3)
    assert np.array_equal(sample.image, image[:, 2:7, 3:7]) and np.array_equal(sample.mask, mask[2:7, 3:7])
    assert sample.valid.all() and dataset.windows == [(slice(2, 7), slice(3, 7))]


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from([np.uint8, np.float32]), st.integers(1, 3))
def test_a_window_beyond_equals_a_cut_from_the_padded_image(data, dtype, axes):
    size = tuple(data.draw(st.integers(1, 8)) for _ in range(axes))
    place = []
    for extent in size:
        start = data.draw(st.integers(-6, extent - 1))
        place.append((start, data.draw(st.integers(max(1, 1 - start), 20))))
    image = noise(2, *size) if dtype == np.uint8 else noise(2, *size) / np.float32(255)
    mask, valid = noise(*size, high=3), noise(*size, high=2).astype(bool)
    sample = read_window(Memory(image, mask, valid), MASKED, place, [0.2, 0.7])

    wide, cut = [(20, 20)] * axes, tuple(slice(20 + start, 20 + start + length) for start, length in place)
    full = 255 if dtype == np.uint8 else 1
    fill = [round(m * full) if full > 1 else m for m in (0.2, 0.7)]
    planes = [np.pad(plane, wide, constant_values=value) for plane, value in zip(image, fill, strict=True)]
    assert sample.image.dtype == dtype and np.array_equal(sample.image, np.stack([plane[cut] for plane in planes]))
    counting = np.where(valid, mask, IGNORE)
    assert np.array_equal(sample.mask, np.pad(counting, wide, constant_values=IGNORE)[cut])
    assert np.array_equal(sample.valid, np.pad(valid, wide, constant_values=False)[cut])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from([(12, 9), (6, 7, 5)]))
def test_a_crop_has_no_label_where_it_is_not_valid(seed, size):
    """Whatever is done to it: scaled, padded, mirrored, turned. What masks say there changes nothing."""
    rng = np.random.default_rng(seed)
    image, mask, valid = noise(2, *size), noise(*size, high=3), rng.random(size) < 0.7
    data = Data(channels=2, scale=(0.4, 1.6), flip_axes=[0, 1], turns=[(0, 1)])
    crops = []
    for other in (mask, np.where(valid, mask, 2 - mask)):
        crops.append(
            draw_crop(Memory(image, other, valid), MASKED, (8,) * len(size), data, np.random.default_rng(seed))
        )
    for sample in crops:
        assert np.array_equal(sample.mask == IGNORE, ~sample.valid)
    assert np.array_equal(crops[0].mask, crops[1].mask)


def test_padding_of_an_item_without_mask():
    sample = read_window(Memory(noise(3, 4, 4)), ITEM, [(-2, 8), (0, 4)], [0.485, 0.456, 0.406])
    assert sample.mask is None
    assert sample.valid.sum(1).tolist() == [0, 0, 4, 4, 4, 4, 0, 0]
    assert sample.image[:, 0, 0].tolist() == [124, 116, 104]


def test_resize_to_the_same_size_is_the_identity():
    sample = Sample(noise(3, 5, 7), noise(5, 7, high=3))
    assert resize(sample, (5, 7)) is sample


@pytest.mark.parametrize("size", [(20, 30), (64, 50), (33, 90)])
def test_resize_equals_pillows_antialiased_bilinear(size):
    image = noise(3, 40, 60)
    wanted = Image.fromarray(image.transpose(1, 2, 0)).resize(size[::-1], Image.Resampling.BILINEAR)
    found = resize(Sample(image), size).image
    assert found.dtype == np.uint8
    assert np.abs(found.transpose(1, 2, 0).astype(int) - np.asarray(wanted)).max() <= 1
    floats = resize(Sample(image / np.float32(255)), size).image
    assert floats.dtype == np.float32 and np.abs(floats * 255 - found).max() <= 1.01


def test_resize_by_a_whole_factor_averages_with_the_tent():
    # Halving 1-D by hand: the tent of radius 2 has weights 1, 3, 3, 1 (over 8) around each new center.
    row = np.array([0, 8, 16, 80, 0, 0, 0, 0], np.float32)
    found = resize(Sample(np.broadcast_to(row, (1, 8, 8)) / np.float32(100)), (8, 4)).image[0, 3] * 100
    wanted = [(3 * 0 + 3 * 8 + 16) / 7, (8 + 48 + 240 + 0) / 8, (80 + 0 + 0 + 0) / 8, 0]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=3))
def test_masks_are_taken_from_the_nearest_pixel_center(sides):
    old, new = zip(*sides, strict=True)
    mask = np.arange(np.prod(old)).reshape(old).astype(np.uint8)
    valid = mask % 2 == 0
    found = resize(Sample(noise(1, *old), mask, valid), new)
    indices = [[min(int((i + 0.5) * o / n), o - 1) for i in range(n)] for o, n in sides]
    assert np.array_equal(found.mask, mask[np.ix_(*indices)])
    assert np.array_equal(found.valid, valid[np.ix_(*indices)])
    assert found.image.shape == (1, *new)


def test_image_and_mask_stay_aligned():
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 14:22] = 1
    image = np.repeat(mask[None] * np.uint8(255), 3, axis=0)
    for size in ((80, 80), (20, 20), (57, 31)):
        found = resize(Sample(image, mask), size)
        wrong = (found.image[0] > 127.5) != found.mask.astype(bool)
        border = sum(np.abs(np.diff(np.pad(found.mask.astype(int), 1), axis=a)).sum() for a in (0, 1))
        assert wrong.sum() <= border / 2


def test_a_crop_at_scale_one_is_a_cut():
    image = pixels_by_number(9, 11)
    for seed in range(10):
        sample = draw_crop(Memory(image), ITEM, (4, 5), still(), np.random.default_rng(seed))
        row, column = divmod(round(float(sample.image[0, 0, 0]) * 99), 11)
        assert np.array_equal(sample.image, image[:, row : row + 4, column : column + 5])
        assert sample.valid.all() and sample.mask is None


def test_a_mask_that_nobody_asked_for_is_dropped():
    dataset = Memory(noise(3, 9, 11), noise(9, 11, high=2))
    window = slice(0, 9), slice(0, 11)
    assert read_sample(dataset, ITEM, window).mask is None
    assert read_sample(dataset, MASKED, window).mask is not None


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.data())
def test_picking_axis_by_axis_is_picking_at_once(shape, data):
    array = noise(*shape)
    places = [np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=5))) for n in shape]
    assert np.array_equal(pick(array, places), array[np.ix_(*places)])


def test_flip():
    image, mask, valid = pixels_by_number(6, 6), noise(6, 6, high=3), noise(6, 6, high=2).astype(bool)

    def crop(flip):
        rng = np.random.default_rng(5)
        return draw_crop(Memory(image, mask, valid), MASKED, (4, 4), Data(channels=1, scale=(0.7, 1.3), flip=flip), rng)

    for plain, flipped in zip(crop(0.0), crop(1.0), strict=True):
        assert np.array_equal(plain[..., ::-1], flipped)
    rows = [
        draw_crop(Memory(image), ITEM, (6, 6), still(flip=0.5), np.random.default_rng(seed)).image[0, 0]
        for seed in range(400)
    ]
    share = np.mean([row[0] > row[-1] for row in rows])
    assert abs(share - 0.5) < 5 * 0.5 / 20


def coordinates(*size):
    """An image whose channels say where each pixel comes from, and a mask and `valid` that follow from them."""
    image = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij")).astype(np.uint8)
    mask = (7 * image[0] + 3 * image[1] + 5 * image[-1]) % 100
    return image, mask.astype(np.uint8), mask % 3 > 0


def moved(size, seed, **settings):
    """A crop of the whole image."""
    dataset = Memory(*coordinates(*size))
    return draw_crop(dataset, MASKED, size, still(channels=len(size), **settings), np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((6, 6), {"flip": 0.5, "flip_axes": [0, 1], "turns": [(0, 1)]}),
        ((5, 8), {"flip": 0.5, "flip_axes": [0], "turns": [(1, 0)]}),
        ((4, 6, 6), {"flip": 0.5, "flip_axes": [0, 1, 2], "turns": [(1, 2)]}),
        ((4, 4, 4), {"flip": 0.3, "flip_axes": [1], "turns": [(0, 1), (1, 2), (-1, 0)]}),
    ],
)
def test_image_mask_and_valid_move_together(size, settings):
    whole, places = coordinates(*size), set()
    for seed in range(40):
        image, mask, valid = moved(size, seed, **settings)
        assert image.shape == (len(size), *size)
        assert np.array_equal(valid, whole[2][tuple(image)])
        assert np.array_equal(mask, np.where(valid, whole[1][tuple(image)], IGNORE))
        assert len(np.unique(np.ravel_multi_index(tuple(image), size))) == np.prod(size)  # nothing lost
        places.add(image.tobytes())
    assert len(places) > 3


def dihedral(array, whole):
    """The eight ways to lay a square, or of another rectangle the four that keep its sides; of the last two axes."""
    turns = (np.rot90(array, number, (-2, -1)) for number in range(0, 4, 1 if whole else 2))
    return {turned.tobytes() for each in turns for turned in (each, each[..., ::-1])}


@pytest.mark.parametrize("settings", [{"flip_axes": [0, 1]}, {}], ids=["both", "last"])
def test_all_of_the_dihedral_group_is_reached_alike_and_nothing_else(settings):
    counts = Counter(moved((4, 4), seed, flip=0.5, turns=[(0, 1)], **settings).image.tobytes() for seed in range(1600))
    assert counts.keys() == dihedral(coordinates(4, 4)[0], True) and len(counts) == 8
    assert all(abs(count - 200) < 5 * np.sqrt(200 * 7 / 8) for count in counts.values())


def test_where_sides_differ_there_are_half_turns_alone():
    counts = Counter(moved((4, 6), seed, turns=[(0, 1)]).image.tobytes() for seed in range(400))
    image = coordinates(4, 6)[0]
    assert counts.keys() == {image.tobytes(), np.ascontiguousarray(image[:, ::-1, ::-1]).tobytes()}
    assert all(abs(count - 200) < 5 * np.sqrt(400 / 4) for count in counts.values())


def test_a_volume_is_turned_in_its_plane():
    image = coordinates(3, 4, 4)[0]
    found = {moved((3, 4, 4), seed, flip=0.5, flip_axes=[-1], turns=[(1, 2)]).image.tobytes() for seed in range(200)}
    assert found == dihedral(image, True)


@pytest.mark.parametrize(("flip", "axes"), [(0.25, [0, 1]), (0.25, [0]), (1.0, [0, -1]), (0.0, [0, 1])])
def test_each_axis_is_mirrored_by_its_own_chance(flip, axes):
    seen = np.zeros((2, 2))
    for seed in range(800):
        corner = moved((4, 4), seed, flip=flip, flip_axes=axes).image[:, 0, 0]
        seen[tuple((corner > 0).astype(int))] += 1
    shares = [flip if axis in axes or axis - 2 in axes else 0.0 for axis in (0, 1)]
    wanted = np.outer([1 - shares[0], shares[0]], [1 - shares[1], shares[1]])
    assert (np.abs(seen / 800 - wanted) <= 5 * np.sqrt(wanted * (1 - wanted) / 800)).all()


@pytest.mark.parametrize("seed", range(12))
def test_by_default_the_draws_are_scale_places_and_one_flip(seed):
    """The order of the calls is part of what a seed means: other draws would change every recipe's crops."""
    image, mask = noise(3, 30, 40), noise(30, 40, high=3)
    rng, crop, sides = np.random.default_rng(seed), [], (12, 12)
    factor = rng.uniform(0.5, 2.0)
    for extent, side in zip((30, 40), sides, strict=True):
        length = max(1, round(side / factor))
        crop.append((int(rng.integers(min(extent - length, 0), max(extent - length, 0) + 1)), length))
    wanted = resize(read_window(Memory(image, mask), MASKED, crop, Data().channel_mean), sides)
    if rng.uniform() < 0.5:
        wanted = Sample(*(array[..., ::-1] for array in wanted))
    found_rng = np.random.default_rng(seed)
    found = draw_crop(Memory(image, mask), MASKED, sides, Data(), found_rng)
    assert all(np.array_equal(*pair) for pair in zip(found, wanted, strict=True))
    assert found_rng.bit_generator.state == rng.bit_generator.state


def test_work_is_proportional_to_the_crop():
    dataset = Memory(noise(3, 500, 800), noise(500, 800, high=2))
    draw_crop(dataset, ITEM, (50, 50), Data(), np.random.default_rng(0))
    assert len(dataset.windows) == 1
    assert all(side.stop - side.start <= 100 for side in dataset.windows[0])


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(2, 3), st.sampled_from([np.uint8, np.float32]))
def test_labels_out_are_labels_in_and_ignore(data, axes, dtype):
    size = tuple(data.draw(st.integers(1, 20)) for _ in range(axes))
    crop = tuple(data.draw(st.integers(1, 20)) for _ in range(axes))
    image = noise(3, *size) if dtype == np.uint8 else noise(3, *size) / np.float32(255)
    mask = noise(*size, high=200)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    sample = draw_crop(Memory(image, mask), MASKED, crop, Data(scale=(0.25, 4.0), mean=[0.1, 0.5, 0.9]), rng)
    assert sample.image.shape == (3, *crop) and sample.mask.shape == sample.valid.shape == crop
    assert sample.image.dtype == dtype and sample.mask.dtype == np.uint8 and sample.valid.dtype == bool
    assert set(np.unique(sample.mask)) <= {*np.unique(mask), IGNORE}
    assert np.array_equal(sample.mask == IGNORE, ~sample.valid)
    assert sample.image.min() >= 0 and sample.image.max() <= (255 if dtype == np.uint8 else 1 + 1e-6)


def test_a_crop_of_many_channels():
    sample = draw_crop(Memory(noise(7, 30, 30)), ITEM, (16, 16), Data(channels=7), np.random.default_rng(1))
    assert sample.image.shape == (7, 16, 16)


def test_a_volume_at_scale_one_is_a_cut():
    image = pixels_by_number(5, 6, 7)
    sample = draw_crop(Memory(image), ITEM, (5, 6, 7), still(), np.random.default_rng(0))
    assert np.array_equal(sample.image, image)


@pytest.mark.parametrize("side", [8, 40], ids=["inside", "beyond the image"])
@pytest.mark.parametrize("channels", [1, 3])
def test_another_number_of_channels_is_refused_wherever_the_crop_lies(side, channels):
    with pytest.raises(PluginError, match=rf"has 2 channels, but data\.channels is {channels}\."):
        draw_crop(Memory(noise(2, 20, 20)), ITEM, (side, side), still(channels=channels), np.random.default_rng(1))

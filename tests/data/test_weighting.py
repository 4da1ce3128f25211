"""How often images are drawn: against NumPy, exact fractions and what must hold."""

from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farcluss.data.base import IGNORE, Item
from farcluss.data.weighting import by_classes, by_pixels, check_draw, count_pixels, draw_chances, multiplicities
from farcluss.errors import DataError, PluginError
from farcluss.recipes.model import Data

BALANCED = Data(draw="balanced")
numbers = st.integers(0, 10**9)


@given(st.integers(0, 2**32), st.integers(1, 5), st.booleans(), st.booleans())
def test_pixels_are_counted_one_by_one(seed, classes, masked, partly):
    rng = np.random.default_rng(seed)
    mask = rng.choice([*range(classes), IGNORE], (3, 4, 2)).astype(np.uint8) if masked else None
    valid = rng.random((3, 4, 2)) < 0.6 if partly else None
    wanted = [0] * (1 + classes)
    for place in np.ndindex(3, 4, 2):
        if valid is None or valid[place]:
            wanted[0] += 1
            if mask is not None and mask[place] != IGNORE:
                wanted[1 + mask[place]] += 1
    found = count_pixels((3, 4, 2), mask, valid, classes)
    assert found.tolist() == wanted and found.dtype == np.int64


@given(st.integers(1, 4).flatmap(lambda c: st.lists(st.lists(numbers, min_size=c, max_size=c), min_size=1)))
def test_labeled_shares_follow_their_formula(rows):
    """Exactly: sum over the C' classes that are there of n_ic / (C' sum_j n_jc)."""
    totals = [sum(column) for column in zip(*rows, strict=True)]
    present = [c for c, total in enumerate(totals) if total]
    wanted = [sum(Fraction(row[c], totals[c] * len(present)) for c in present) for row in rows]
    found = by_classes(np.array(rows, np.int64))
    assert found.dtype == np.float64 and np.allclose(found, list(map(float, wanted)), rtol=1e-12, atol=0)
    assert found.sum() == pytest.approx(1 if present else 0)


def test_each_class_is_drawn_alike():
    """Ten images of the first class, two of the second, one of the third; none of the fourth, one of nothing."""
    counts = np.zeros((14, 4), np.int64)
    counts[:10, 0], counts[10:12, 1], counts[12, 2] = 500, (30, 90), 1
    shares = by_classes(counts)
    assert shares == pytest.approx([1 / 30] * 10 + [1 / 12, 1 / 4, 1 / 3, 0])


@given(st.lists(numbers, min_size=1))
def test_unlabeled_shares_are_those_of_pixels(counts):
    wanted = [n / max(sum(counts), 1) for n in counts]
    assert np.allclose(by_pixels(np.array(counts, np.int64)), wanted, rtol=1e-12, atol=0)


shares_lists = st.lists(st.integers(0, 1000), min_size=1, max_size=30).filter(any)


@given(shares_lists, st.integers(0, 2**24 - 1))
def test_images_come_as_often_as_their_share(counts, part):
    """Its share of N draws, rounded down or up, N in all; nothing of an image without a share."""
    offset = part / 2**24
    found = multiplicities(np.array(counts) / sum(counts), offset)
    expected = [Fraction(n * len(counts), sum(counts)) for n in counts]
    tiny = Fraction(1, 10**5)  # shares are rounded
    assert all(floor(e - tiny) <= m <= ceil(e + tiny) for e, m in zip(expected, found, strict=True))
    assert found.sum() == len(counts) and all(m == 0 for n, m in zip(counts, found, strict=True) if not n)


@given(shares_lists)
@settings(max_examples=30, deadline=None)
def test_the_mean_over_offsets_is_the_share(counts):
    shares = np.array(counts) / sum(counts)
    mean = np.mean([multiplicities(shares, part / 512) for part in range(512)], axis=0)
    assert np.abs(mean - len(counts) * shares).max() <= 1 / 512 + 1e-5


@pytest.mark.parametrize("count", [1, 2, 3, 7, 49, 107, 1000, 99_991])
def test_equal_shares_give_each_image_once_whatever_their_sum(count):
    for share in (1 / count, 1.0, 0.1):
        for offset in (0.0, 2**-24, 0.5, 1 - 2**-24):
            assert (multiplicities(np.full(count, share), offset) == 1).all()


class Counted:
    """A data set that knows numbers of pixels alone, and notes what it was asked for."""

    classes = ("a", "b")

    def __init__(self, counts):
        self.counts, self.asked = counts, []

    def pixel_counts(self, item):
        self.asked.append(item)
        counts = self.counts[item.id]
        if isinstance(counts, Exception):
            raise counts
        valid, *classes = counts
        return np.array([valid, *classes] if item.mask else [valid, 0, 0], np.int64)


LABELED, UNLABELED = [Item("l", "l", "l"), Item("m", "m", "m")], [Item("u", "u", "u"), Item("v", "v", "v", "group")]
COUNTS = {"l": (9, 4, 5), "m": (9, 4, 0), "u": (6, 0, 6), "v": (2, 2, 0)}


def test_both_streams():
    dataset = Counted(COUNTS)
    labeled, unlabeled = draw_chances(dataset, LABELED, UNLABELED, BALANCED)
    assert labeled.shares == pytest.approx([0.75, 0.25]) and unlabeled.shares == pytest.approx([0.75, 0.25])
    assert dataset.asked == [*LABELED, Item("u", "u"), Item("v", "v", None, "group")]


def test_labels_of_unlabeled_images_do_not_matter():
    """Neither through the numbers nor by being there at all: the data set never hears of these masks."""
    found = []
    for classes in ((0, 6), (6, 0), (3, 3)):
        for mask in ("u", "other", None):
            dataset = Counted(COUNTS | {"u": (6, *classes)})
            items = [Item("u", "u", mask), UNLABELED[1]]
            found.append([chances.shares.tolist() for chances in draw_chances(dataset, LABELED, items, BALANCED)])
            assert not any(item.mask for item in dataset.asked if item.id in "uv")
    assert found.count(found[0]) == 9


def test_who_is_not_asked():
    dataset = Counted(COUNTS)
    assert draw_chances(dataset, LABELED, UNLABELED, Data()) == (None, None) and dataset.asked == []
    assert draw_chances(dataset, LABELED, [], BALANCED)[1] is None
    check_draw(dataset, BALANCED), check_draw(object(), Data())


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"l": (9, 0, 0), "m": (9, 0, 0)}, DataError, "masks of data.labeled contain no pixel"),
        ({"u": (0, 0, 0), "v": (0, 0, 0)}, DataError, "images of data.unlabeled have no valid pixel"),
        ({"u": DataError("lost")}, DataError, "^lost$"),
        ({"u": KeyError("u")}, PluginError, "Counted, item u: counting pixels fails: KeyError"),
        ({"l": (9, 4)}, PluginError, r"item l: pixel counts are int64 \(2,\)"),
        ({"l": (9, 4, -1)}, PluginError, "non-negative"),
    ],
)
def test_refusals(change, error, words):
    with pytest.raises(error, match=words) as caught:
        draw_chances(Counted(COUNTS | change), LABELED, UNLABELED, BALANCED)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("ask", [lambda d: check_draw(d, BALANCED), lambda d: draw_chances(d, LABELED, [], BALANCED)])
def test_a_data_set_that_counts_nothing(ask):
    with pytest.raises(DataError, match="the layout folder does not provide") as caught:
        ask(object())
    assert 'data.draw = "uniform"' in str(caught.value) and "farcluss pack" in str(caught.value)

"""The bootstrap of a difference: closed forms, and what must not matter."""

import numpy as np
import pytest

from farcluss.inference.intervals import paired_difference
from farcluss.inference.per_image import PerImage

UNION = 100


def run(hits, groups=None):
    """Images whose IoU of the only class is hits / UNION each: the mIoU of any choice is the mean of its images'."""
    hits = np.asarray(hits)
    counts = np.stack([hits, np.full(len(hits), UNION // 2 + 20), UNION + hits - UNION // 2 - 20], 1)[..., None]
    names = tuple(f"i{n}" for n in range(len(hits)))
    return PerImage(("a",), names, tuple(groups or [""] * len(hits)), counts)


def test_equal_runs_do_not_differ():
    same = [run([3, 60, 9]), run([5, 5, 5])]
    found = paired_difference(same, same)
    assert (found.mean, found.low, found.high, found.ahead, found.clear) == (0, 0, 0, 0, False)
    assert (found.seeds, found.units) == (2, 3)


def test_over_images_it_is_the_normal_interval_of_a_mean():
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 60, (2, 400))
    found = paired_difference([run(first)], [run(second)])
    gaps = (second - first) / UNION
    margin = 1.96 * gaps.std() / np.sqrt(len(gaps))
    assert found.mean == pytest.approx(gaps.mean(), abs=1e-12)
    assert found.low == pytest.approx(gaps.mean() - margin, abs=0.1 * margin)
    assert found.high == pytest.approx(gaps.mean() + margin, abs=0.1 * margin)


def test_pairing_takes_out_what_images_have_in_common():
    """Images differ by 60 points, methods by one on each: the difference is sure."""
    hits = np.arange(60)
    found = paired_difference([run(hits)], [run(hits + 1)])
    assert found.low == pytest.approx(0.01) and found.high == pytest.approx(0.01) and found.clear


def test_over_seeds_it_is_the_distribution_of_their_choices():
    """Images all alike, two seeds with gaps of 0 and 10 points: a quarter of the choices has twice the first."""
    first, second = [run([20] * 9), run([20] * 9)], [run([20] * 9), run([30] * 9)]
    found = paired_difference(first, second)
    assert (found.mean, found.low, found.high) == pytest.approx((0.05, 0, 0.1))
    assert (found.ahead, found.seeds, found.clear) == (1, 2, False)


def test_what_belongs_together_is_drawn_together():
    """Twenty images in four groups are as sure as four images of their sums."""
    rng = np.random.default_rng(2)
    parts = rng.integers(0, 20, (2, 4, 5))
    groups = [f"g{n}" for n in range(4) for _ in range(5)]
    fine = paired_difference(*([run(each.ravel(), groups)] for each in parts))
    assert fine.units == 4
    sums = [run(each.sum(1)) for each in parts]
    whole = [
        PerImage(("a",), each.images, each.groups, each.counts + np.array([[0], [0], [4 * UNION]])) for each in sums
    ]
    coarse = paired_difference(*([each] for each in whole))
    assert (fine.mean, fine.low, fine.high) == pytest.approx((coarse.mean, coarse.low, coarse.high), abs=1e-12)


def test_turned_round_it_changes_sign():
    rng = np.random.default_rng(3)
    first, second = ([run(rng.integers(0, 60, 30)) for _ in range(3)] for _ in range(2))
    one, other = paired_difference(first, second), paired_difference(second, first)
    assert (one.mean, one.low, one.high) == pytest.approx((-other.mean, -other.high, -other.low))


def test_draws_depend_on_the_seed_alone():
    rng = np.random.default_rng(4)
    first, second = ([run(rng.integers(0, 60, 30)) for _ in range(3)] for _ in range(2))
    assert paired_difference(first, second) == paired_difference(first, second)
    assert paired_difference(first, second, seed=1) != paired_difference(first, second)


def test_other_images_are_refused():
    with pytest.raises(ValueError, match="same seeds and images"):
        paired_difference([run([1, 2])], [run([1, 2, 3])])

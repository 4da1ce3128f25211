"""Eq. 7: class weights by median frequency."""

from dataclasses import replace
from itertools import product

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given

from farcluss.stages.base import PseudoLabels
from farcluss.stages.rebalance import MedianFrequency
from farcluss.stages.weight import Uniform

OPTIONS = [
    dict(zip(("count", "apply", "normalize", "max_weight"), values, strict=True))
    for values in product(("hard", "soft"), ("argmax", "expected"), ("none", "mean"), (None, 1.5))
]


def omega(stage, labels, c):
    return stage.class_weights(stage.statistics(labels, c))


def hard_labels(classes, valid=None):
    """One-hot labels of a list of classes, as a `(1, 1, n)` picture."""
    classes = torch.tensor(classes).reshape(1, 1, 1, -1)
    ones = torch.ones(1, 1, classes.numel())
    valid = torch.ones(1, 1, classes.numel(), dtype=torch.bool) if valid is None else valid
    return PseudoLabels(ones.unsqueeze(1), classes, ones, ones, valid)


@pytest.mark.parametrize("space", oracles.SPACES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    ("c", "k", "classes"),
    [(5, 3, None), (5, 5, None), (2, 2, None), (4, 1, None), (7, 3, [1, 4]), (6, 1, [0, 2, 5]), (2, 1, [1])],
)
def test_weights_equal_oracle(space, options, c, k, classes):
    labels = oracles.random_labels(space, c=c, k=k, seed=3, classes=classes)
    q, valid = oracles.dense_labels(labels, c), oracles.rows(labels.valid, False)
    stage = MedianFrequency(**options)
    weights = omega(stage, labels, c)
    expected = oracles.class_weights(q, valid, **options)
    present = oracles.class_counts(q, valid, options["count"]) > 0
    compared = present | (options["normalize"] == "none")  # what an absent class gets after scaling is left open
    assert weights.shape == (c,) and weights.dtype == torch.float32 and weights.isfinite().all()
    np.testing.assert_allclose(weights.numpy()[compared], expected[compared], rtol=1e-5)
    pixels = stage.pixels(labels, stage.statistics(labels, c))
    assert pixels.shape == (2, *space)
    expected = oracles.pixel_omega(q, weights.double().numpy(), options["apply"])
    np.testing.assert_allclose(oracles.rows(pixels, False), expected, rtol=1e-5)


@pytest.mark.parametrize("space", oracles.SPACES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("classes", [None, [1, 3], [4]])
def test_normalized_pixels_have_mean_1(space, options, classes):
    labels = oracles.random_labels(space, seed=5, classes=classes)
    stage = MedianFrequency(**options | {"normalize": "mean"})
    pixels = stage.pixels(labels, stage.statistics(labels, 5))
    np.testing.assert_allclose(pixels[labels.valid].double().mean(), 1, rtol=1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_invalid_pixels_do_not_count(options):
    labels = oracles.random_labels((3, 4), seed=7)
    poisoned = labels.map(torch.clone)
    poisoned.values.masked_fill_(~labels.valid.unsqueeze(1), float("nan"))
    poisoned.classes.masked_fill_(~labels.valid.unsqueeze(1), 4)
    stage = MedianFrequency(**options)
    torch.testing.assert_close(omega(stage, poisoned, 5), omega(stage, labels, 5))


def test_default_is_the_paper_to_the_letter():
    labels = oracles.random_labels((6, 8), seed=2)
    q, valid = oracles.dense_labels(labels, 5), oracles.rows(labels.valid, False)
    np.testing.assert_allclose(omega(MedianFrequency(), labels, 5), oracles.class_weights(q, valid), rtol=1e-5)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ([0] * 8 + [1] * 4 + [2] * 2, [4 / 8, 1, 4 / 2, 1]),  # odd number present
        ([0] * 8 + [1] * 4, [6 / 8, 6 / 4, 1, 1]),  # even: the mean of the middle two
        ([0] * 9 + [1] * 5 + [2] * 3 + [3], [4 / 9, 4 / 5, 4 / 3, 4]),
        ([2] * 5, [1, 1, 1, 1]),
    ],
)
def test_median_over_present_classes_and_absent_weigh_1(classes, expected):
    np.testing.assert_allclose(omega(MedianFrequency(), hard_labels(classes), 4), expected, rtol=1e-5)


def test_eps_enters_the_denominator():
    weights = omega(MedianFrequency(eps=2.0), hard_labels([0] * 6 + [1] * 2), 2)
    np.testing.assert_allclose(weights, [4 / 8, 4 / 4], rtol=1e-6)


@pytest.mark.parametrize("space", oracles.SPACES)
@pytest.mark.parametrize("classes", [None, [0, 2, 3]])
def test_raw_weights_give_every_present_class_the_same_mass(space, classes):
    labels = oracles.random_labels(space, seed=4, classes=classes)
    stage = MedianFrequency()
    pixels, argmax = stage.pixels(labels, stage.statistics(labels, 5)), labels.classes[:, 0]
    present = argmax[labels.valid].unique()
    mass = [pixels[labels.valid & (argmax == c)].sum().item() for c in present]
    np.testing.assert_allclose(mass, mass[0], rtol=1e-5)


def test_clip_comes_before_normalization():
    labels = hard_labels([0] * 60 + [1] * 6 + [2])
    clipped = omega(MedianFrequency(max_weight=2.0), labels, 3)
    np.testing.assert_allclose(clipped, [0.1, 1, 2], rtol=1e-5)
    normalized = omega(MedianFrequency(max_weight=2.0, normalize="mean"), labels, 3)
    np.testing.assert_allclose(normalized, np.array([0.1, 1, 2]) * 67 / (6 + 6 + 2), rtol=1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_statistics_of_micro_batches_add_up(options):
    labels = oracles.random_labels((3, 4), b=4, seed=9)
    stage = MedianFrequency(**options)
    parts = [stage.statistics(labels.map(lambda t, i=i: t[2 * i : 2 * i + 2]), 5) for i in range(2)]
    torch.testing.assert_close(stage.class_weights(parts[0] + parts[1]), omega(stage, labels, 5))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_no_valid_pixel_gives_finite_weights(options):
    labels = oracles.random_labels((3, 4))
    labels = replace(labels, valid=torch.zeros_like(labels.valid))
    assert omega(MedianFrequency(**options), labels, 5).isfinite().all()


def test_soft_counts_survive_many_pixels():
    n = 2**21
    values = torch.tensor([0.7, 0.3]).reshape(1, 2, 1, 1).expand(1, 2, 1, n)
    classes = torch.tensor([0, 1]).reshape(1, 2, 1, 1).expand(1, 2, 1, n)
    ones = torch.ones(1, 1, n)
    labels = PseudoLabels(values, classes, ones, ones, ones.bool())
    np.testing.assert_allclose(omega(MedianFrequency(count="soft"), labels, 2), [0.5 / 0.7, 0.5 / 0.3], rtol=1e-5)


@pytest.mark.parametrize("space", oracles.SPACES)
def test_uniform_is_1(space):
    labels = oracles.random_labels(space)
    stage = Uniform()
    pixels = stage.pixels(labels, stage.statistics(labels, 5))
    assert stage.statistics(labels, 5).numel() == 0
    assert pixels.shape == (2, *space) and (pixels == 1).all()


@pytest.mark.parametrize("stage", [MedianFrequency(**o) for o in OPTIONS])
@oracles.PROPERTY
@given(oracles.scenes())
def test_no_axis_is_special(stage, scene):
    space, axes, b, c, seed = scene
    labels = oracles.random_labels(space, b, c, seed=seed)
    weights = omega(stage, labels, c)
    for move in oracles.moves(space, axes):
        moved = labels.map(move)
        torch.testing.assert_close(omega(stage, moved, c), weights)
        summed = stage.statistics(labels, c)
        torch.testing.assert_close(stage.pixels(moved, summed), move(stage.pixels(labels, summed)))

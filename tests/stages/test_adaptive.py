"""Adaptive weights against plain loops in NumPy, and the numbers of their authors' formulas."""

from dataclasses import replace

import numpy as np
import oracles
import pytest
import spread
import torch

from farcluss.stages.adaptive import BINS, ClassThresholds, DynamicThreshold, LowestEntropy, SoftThreshold, boundaries
from farcluss.testing import PixelWeightTester

STEPS, C = 50, 5


class TestSoftThreshold(PixelWeightTester):
    stage = SoftThreshold
    options = {"momentum": 0.9}
    largest = 1.0


class TestClassThresholds(PixelWeightTester):
    stage = ClassThresholds
    options = {"momentum": 0.9}
    largest = 1.0


class TestDynamicThreshold(PixelWeightTester):
    stage = DynamicThreshold


class TestLowestEntropy(PixelWeightTester):
    stage = LowestEntropy
    largest = 1.0


class TestScaledEntropy(PixelWeightTester):
    stage = LowestEntropy
    options = {"scaled": True, "dropped": 0.5}


def batches(space=(6, 8)):
    """Pseudo-labels of some steps, whose confidence rises."""
    for step in range(STEPS):
        logits = oracles.random_logits(space, b=4, c=C, seed=step, scale=0.5 + step / 20)
        labels = oracles.labels_of(logits.softmax(1), C)
        yield replace(labels, valid=torch.from_numpy(np.random.default_rng(step).random((4, *space)) < 0.8))


def step(stage, parts, add):
    """Weights of one batch."""
    summed = add(sum(stage.statistics(part, C) for part in parts))
    stage.absorb(summed)
    return torch.cat([stage.pixels(part, summed) for part in parts])


def steps(stage, way, folder, every=1):
    """Labels of each step, and the weights of their valid pixels."""
    given = list(batches())[::every]
    for labels, found in zip(given, spread.take(step, stage, given, way, folder), strict=True):
        yield labels, found[labels.valid].double().numpy()


def told(labels):
    """Confidence and class of the valid pixels, in float64."""
    return labels.confidence[labels.valid].double().numpy(), labels.classes[:, 0][labels.valid].numpy()


@pytest.mark.parametrize("way", spread.WAYS)
def test_soft_threshold_is_a_plain_loop(way, tmp_path):
    stage, mean, variance = SoftThreshold(momentum=0.9), 1 / 5, 1.0
    for labels, found in steps(stage, way, tmp_path):
        p, _ = told(labels)
        mean, variance = 0.9 * mean + 0.1 * p.mean(), 0.9 * variance + 0.1 * p.var(ddof=1)
        np.testing.assert_allclose(found, np.exp(-(np.minimum(p - mean, 0) ** 2) * 4 / (2 * variance)), rtol=2e-4)
    assert stage.mean.item() == pytest.approx(mean, rel=1e-5)
    assert stage.variance.item() == pytest.approx(variance, rel=1e-4)


def test_soft_threshold_of_known_numbers():
    stage = SoftThreshold()
    stage.mean.fill_(0.7), stage.variance.fill_(0.04)
    labels = replace(oracles.random_labels((1, 3), b=1), confidence=torch.tensor([[[0.9, 0.6, 0.3]]]))
    np.testing.assert_allclose(stage.pixels(labels, torch.zeros(4)).flatten(), [1, 0.606531, 0.000335], atol=1e-6)


@pytest.mark.parametrize("way", spread.WAYS)
def test_class_thresholds_are_a_plain_loop(way, tmp_path):
    stage, threshold, means = ClassThresholds(momentum=0.9), 1 / 5, np.full(5, 1 / 5)
    for labels, found in steps(stage, way, tmp_path):
        p, classes = told(labels)
        probs = oracles.dense_labels(labels, 5)[oracles.rows(labels.valid, False)]
        threshold, means = 0.9 * threshold + 0.1 * p.mean(), 0.9 * means + 0.1 * probs.mean(0)
        limits = threshold * means / means.max()
        sure = np.abs(p - limits[classes]) > 1e-6  # but for roundings
        assert np.array_equal(found[sure], (p >= limits[classes])[sure]) and 0 < found.mean() <= 1
    np.testing.assert_allclose(stage.class_thresholds()[:5], limits, rtol=1e-4)
    assert (stage.class_thresholds()[5:] == 0).all()


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("way", spread.WAYS)
def test_the_lowest_entropies_are_those_below_a_percentile(way, progress, tmp_path):
    stage = LowestEntropy()
    stage.progress.fill_(progress)
    for labels, found in steps(stage, way, tmp_path, 10):
        entropy = labels.entropy[labels.valid].double().numpy()
        limit = np.percentile(entropy, 100 - 20 * (1 - progress))
        clear = np.abs(entropy - limit) > 1 / BINS
        assert np.array_equal(found[clear], (entropy < limit)[clear])


def test_lowest_entropy_of_known_numbers():
    """H = .1 to .5 and CE = 1 to 5: four are kept, and the loss of the authors' code is 3.125."""
    labels = oracles.random_labels((1, 5), b=1)
    entropy = torch.tensor([[[0.1, 0.2, 0.3, 0.4, 0.5]]])
    labels, stage = replace(labels, entropy=entropy, valid=entropy > 0), LowestEntropy(scaled=True)
    weights = stage.pixels(labels, stage.statistics(labels, 5)).flatten()
    losses = torch.arange(1.0, 6.0)
    assert ((weights * losses).sum() / (weights > 0).sum()).item() == pytest.approx(3.125)


@pytest.mark.parametrize("way", spread.WAYS)
def test_dynamic_threshold_is_its_formula(way, tmp_path):
    stage = DynamicThreshold(base=1.2, slope=3.0, limits=(0.3, 0.95))  # of which some pixels are left out
    for labels, found in steps(stage, way, tmp_path):
        p, _ = told(labels)
        limit = np.clip(1.2 / (1 + np.exp(-3.0 * (p.mean() - 0.5))), 0.3, 0.95)
        edge = boundaries(labels)[labels.valid].numpy()
        kept = np.floor(p * BINS) > np.floor(limit * BINS)
        assert (kept ^ (p > limit)).mean() < 0.01
        wanted = kept * (p * len(p) / max(kept.sum(), 1) + 0.5 * edge * len(p) / max((kept & edge).sum(), 1))
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
        assert stage.figures(stage.statistics(labels, 5))["threshold"].item() == pytest.approx(limit, rel=1e-5)


def test_dynamic_threshold_of_known_numbers():
    """q = .9, .5, .2, CE = 1, 2, 3, boundaries at the last two: T = .3025, and the loss is 1.95."""
    labels = oracles.random_labels((3,), b=1, k=1)
    q = torch.tensor([[0.9, 0.5, 0.2]])
    classes = torch.tensor([0, 0, 1]).reshape(1, 1, 3)
    labels, stage = replace(labels, confidence=q, classes=classes, valid=q > 0), DynamicThreshold()
    summed = stage.statistics(labels, 5)
    assert boundaries(labels).flatten().tolist() == [False, True, True]
    assert stage.threshold(summed).item() == pytest.approx(0.6 / (1 + np.exp(-0.5 * (q.mean().item() - 0.5))), rel=1e-6)
    assert (stage.pixels(labels, summed) * torch.tensor([[1.0, 2.0, 3.0]])).mean().item() == pytest.approx(1.95)


@pytest.mark.parametrize("space", [(9,), (7, 8), (4, 5, 6)])
def test_boundaries_are_pixels_beside_another_class(space):
    labels = oracles.random_labels(space, c=2, k=1)
    found, wanted = boundaries(labels), np.zeros((2, *space), bool)
    classes, valid = labels.classes[:, 0].numpy(), labels.valid.numpy()
    for place in np.ndindex(2, *space):
        near = (place[0], *(slice(max(0, at - 1), at + 2) for at in place[1:]))
        wanted[place] = valid[place] and (classes[near][valid[near]] != classes[place]).any()
    assert np.array_equal(found.numpy(), wanted) and wanted.any() and not wanted.all()

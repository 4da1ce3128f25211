"""The threshold between right and wrong predictions, and the share of sure pixels, against NumPy and known numbers."""

import numpy as np
import oracles
import pytest
import torch

from farcluss.stages.adaptive import CrossingThreshold, SureShare, crossing
from farcluss.testing import PixelWeightTester

STEPS, C = 50, 5


class TestCrossingThreshold(PixelWeightTester):
    stage = CrossingThreshold
    largest = 1.0


class TestSureShare(PixelWeightTester):
    stage = SureShare
    options = {"threshold": 0.6}
    largest = 1.0


def density(x, mean, deviation):
    return np.exp(-((x - mean) ** 2) / (2 * deviation**2)) / deviation


def of(*values):
    return [torch.tensor(value, dtype=torch.float64) for value in values]


@pytest.mark.parametrize(
    ("high", "low", "above", "below", "wanted"),
    [
        (0.9, 0.6, 0.1, 0.15, 0.760268),
        (0.9, 0.5, 0.2, 0.2, 0.7),
        (0.8, 0.7, 0.3, 0.1, None),
        (0.6, 0.5, 0.1, 0.4, None),
    ],
)
def test_densities_are_equal_where_they_cross(high, low, above, below, wanted):
    found = crossing(*of(high, low, above**2, below**2)).item()
    assert density(found, high, above) == pytest.approx(density(found, low, below), rel=1e-9)
    assert wanted is None or found == pytest.approx(wanted, abs=1e-6)


def test_equal_and_disjoint_distributions():
    assert crossing(*of(0.2, 0.2, 0.5, 0.5)) == 0
    assert crossing(*of(0.5, 0.5, 0.25, 1e-12)).isfinite()


def labeled(step, space=(6, 8)):
    """The student's logits of labeled images, surer and more often right from step to step; masks, and which count."""
    rng = np.random.default_rng(step)
    masks = torch.from_numpy(rng.integers(0, C, (4, *space)))
    right = torch.nn.functional.one_hot(masks, C).movedim(-1, 1)
    logits = torch.from_numpy(rng.normal(0, 1.5, (4, C, *space))) + right * (0.5 + step / 15)
    return logits, masks, torch.from_numpy(rng.random((4, *space)) < (0.8 if step % 7 else 0.02))


def moments(sure, mean, variance, momentum):
    """Moving mean and variance of a plain loop; of less than ten pixels they stay."""
    if len(sure) < 10:
        return mean, variance
    return momentum * mean + (1 - momentum) * sure.mean(), momentum * variance + (1 - momentum) * sure.var(ddof=1)


@pytest.mark.parametrize("parts", [1, 4])
def test_the_threshold_is_a_plain_loop(parts):
    momentum, last = 0.9, 0.95
    stage = CrossingThreshold(momentum=momentum)
    (mean, variance), (low, spread) = (1 / C, 0.5), (1 / C, 0.5)
    seen = []
    for step in range(STEPS):
        logits, masks, known = labeled(step)
        chunks = [tensor.chunk(parts) for tensor in (logits, masks, known)]
        stage.absorb_labeled(sum(stage.labeled_statistics(*part) for part in zip(*chunks, strict=True)))
        exp = np.exp(logits.numpy() - logits.numpy().max(1, keepdims=True))
        probs, hit = exp / exp.sum(1, keepdims=True), logits.numpy().argmax(1) == masks.numpy()
        sure, known = probs.max(1), known.numpy()
        mean, variance = moments(sure[hit & known], mean, variance, momentum)
        low, spread = moments(sure[~hit & known], low, spread, momentum)
        a, b = variance - spread, 2 * (mean * spread - low * variance)
        d = low**2 * variance - mean**2 * spread + 2 * variance * spread * np.log(np.sqrt(spread / variance) + 1e-8)
        if b**2 - 4 * a * d >= 0:
            last = np.clip((-b + np.sqrt(b**2 - 4 * a * d)) / (2 * a + 1e-10), 1 / C, 1)
        assert stage.threshold.item() == pytest.approx(last, abs=2e-4)
        seen.append(last)
    assert min(seen) == 1 / C and max(seen) > 0.4  # at the bound first, then above it
    labels = oracles.random_labels((6, 8), b=4, c=C)
    weights = stage.pixels(labels, torch.zeros(0))
    np.testing.assert_array_equal(weights.numpy(), labels.confidence.numpy() >= np.float32(stage.threshold))


def test_sure_share_counts_the_whole_batch():
    labels = oracles.random_labels((6, 8), b=4, c=C)
    stage = SureShare(threshold=0.6)
    summed = sum(stage.statistics(labels.map(lambda tensor, i=i: tensor[i : i + 1]), C) for i in range(4))
    valid, sure = labels.valid.numpy(), labels.confidence.numpy() >= 0.6
    wanted = (valid & sure).sum() / valid.sum()
    np.testing.assert_allclose(stage.pixels(labels, summed).numpy(), np.full(valid.shape, wanted), rtol=1e-6)
    assert 0 < wanted < 1 and stage.figures(summed)["sure_share"].item() == pytest.approx(wanted)

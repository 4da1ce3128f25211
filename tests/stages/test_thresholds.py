"""The threshold between right and wrong predictions, and the share of sure pixels, against NumPy and known numbers."""

import numpy as np
import oracles
import pytest
import spread
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


def step(stage, parts, add):
    """The threshold after one batch, for each of its images."""
    stage.absorb_labeled(add(sum(stage.labeled_statistics(*part) for part in parts)))
    return stage.threshold.expand(sum(len(masks) for _, masks, _ in parts)).clone()


def moments(sure, mean, variance, momentum):
    """Moving mean and variance of a plain loop; of less than ten pixels they stay."""
    if len(sure) < 10:
        return mean, variance
    return momentum * mean + (1 - momentum) * sure.mean(), momentum * variance + (1 - momentum) * sure.var(ddof=1)


@pytest.mark.parametrize("momentum", [0.9, 0.99])
@pytest.mark.parametrize("way", spread.WAYS)
def test_the_threshold_is_a_plain_loop(way, momentum, tmp_path):
    last = 0.95
    stage = CrossingThreshold(momentum=momentum)
    (mean, variance), (low, width) = (1 / C, 0.5), (1 / C, 0.5)
    seen, batches = [], [labeled(step) for step in range(STEPS)]
    for (logits, masks, known), found in zip(batches, spread.take(step, stage, batches, way, tmp_path), strict=True):
        exp = np.exp(logits.numpy() - logits.numpy().max(1, keepdims=True))
        probs, hit = exp / exp.sum(1, keepdims=True), logits.numpy().argmax(1) == masks.numpy()
        sure, known = probs.max(1), known.numpy()
        mean, variance = moments(sure[hit & known], mean, variance, momentum)
        low, width = moments(sure[~hit & known], low, width, momentum)
        a, b = variance - width, 2 * (mean * width - low * variance)
        d = low**2 * variance - mean**2 * width + 2 * variance * width * np.log(np.sqrt(width / variance) + 1e-8)
        if b**2 - 4 * a * d >= 0:
            last = np.clip((-b + np.sqrt(b**2 - 4 * a * d)) / (2 * a + 1e-10), 1 / C, 1)
        np.testing.assert_allclose(found, last, atol=2e-4)
        seen.append(last)
    assert min(seen) == 1 / C and max(seen) > (0.4 if momentum < 0.99 else 1 / C)  # at the bound first, then above it
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


def told(stage, right, wrong, classes, number=1000):
    """Give a stage labeled pixels, as many right as wrong ones, of known means and deviations of confidence."""
    sums = [
        part for mean, of in (right, wrong) for part in (number, number * mean, (number - 1) * of**2 + number * mean**2)
    ]
    stage.absorb_labeled(torch.tensor([*sums, classes * 2.0 * number], dtype=torch.float64))


def test_the_first_steps_of_known_numbers():
    """C = 21 and .9 +- .1 against .6 +- .15 in each batch: the authors' start of .95 is left at once."""
    stage, found = CrossingThreshold(), {}
    assert stage.threshold.item() == pytest.approx(0.95)
    for step in range(1, 501):
        told(stage, (0.9, 0.1), (0.6, 0.15), 21)
        found[step] = stage.threshold.item()
    assert found[1] == pytest.approx(1 / 21, abs=1e-6)
    for step, wanted in {20: 0.155, 100: 0.47, 200: 0.64, 500: 0.75}.items():
        assert found[step] == pytest.approx(wanted, abs=0.005)


def test_the_last_threshold_stays_where_a_variance_is_0():
    stage = CrossingThreshold(momentum=0.0)
    told(stage, (0.9, 0.1), (0.6, 0.15), C)
    assert stage.threshold.item() == pytest.approx(0.760268, abs=1e-6)
    told(stage, (0.6, 0.1), (0.6, 0.1), C)  # the same: the root is 0, so that 1 / C it is
    assert stage.threshold.item() == pytest.approx(1 / C)
    told(stage, (0.9, 0.1), (0.6, 0.15), C)
    told(stage, (0.8, 0.3), (0.8, 0.0), C)  # no variance, no density
    assert stage.threshold.item() == pytest.approx(0.760268, abs=1e-6) and stage.means.isfinite().all()


def test_the_threshold_is_at_most_1():
    stage = CrossingThreshold(momentum=0.0)
    told(stage, (0.5, 0.2), (0.9, 0.1), C)  # wrong pixels are surer than right ones: beyond 1 right ones are again
    assert crossing(*of(0.5, 0.9, 0.2**2, 0.1**2)) > 1 and stage.threshold == 1


@pytest.mark.parametrize(("count", "moves"), [(9, False), (10, True)])
def test_fewer_than_ten_pixels_say_nothing(count, moves):
    stage, logits = CrossingThreshold(), torch.zeros(1, C, 1, 40)
    logits[:, 0] = torch.linspace(1, 2, 40)
    masks = (torch.arange(40) >= count).long().view(1, 1, 40)  # right where 0, which is predicted everywhere
    stage.absorb_labeled(stage.labeled_statistics(logits, masks, masks >= 0))
    assert (stage.means != 1 / C).tolist() == [moves, True] and (stage.variances != 0.5).tolist() == [moves, True]


def test_ignored_pixels_do_not_matter():
    stage = CrossingThreshold()
    logits, masks, known = labeled(1)
    other = torch.where(known.unsqueeze(1), logits, 5 * logits.flip(1)), torch.where(known, masks, 255)
    torch.testing.assert_close(
        stage.labeled_statistics(*other, known), stage.labeled_statistics(logits, masks, known), rtol=1e-12, atol=0
    )


def test_sure_share_of_known_numbers():
    """t = (.9, .1), (.99, .01) and s = (.6, .4), (.7, .3): one of two is sure, and CutMix-Seg's loss is .08705."""
    teacher = torch.tensor([[0.9, 0.99], [0.1, 0.01]]).view(1, 2, 1, 2)
    student = np.array([[0.6, 0.7], [0.4, 0.3]])
    labels, stage = oracles.labels_of(teacher, 2), SureShare()
    weights = stage.pixels(labels, stage.statistics(labels, 2)).flatten().double().numpy()
    assert weights.tolist() == [0.5, 0.5]
    squares = ((student - teacher.view(2, 2).double().numpy()) ** 2).sum(0)
    assert (weights * squares).mean() == pytest.approx(0.08705, rel=1e-6)


def test_no_pixel_has_no_share():
    labels, stage = oracles.random_labels((6, 8), c=C), SureShare(threshold=0.0)
    assert (stage.pixels(labels, stage.statistics(labels, C)) == 1).all()  # all of the valid ones, not of all pixels
    labels = labels.map(lambda tensor: tensor if tensor.dtype != torch.bool else tensor & False)
    assert (stage.pixels(labels, stage.statistics(labels, C)) == 0).all()


@pytest.mark.parametrize("before", [0, 3])
def test_a_step_without_labeled_pixels_changes_nothing(before):
    """Neither the start nor what is learned: the threshold stays the one of the last step."""
    stage = CrossingThreshold(momentum=0.5)
    for number in range(before):
        stage.absorb_labeled(stage.labeled_statistics(*labeled(number)))
    state = {name: tensor.clone() for name, tensor in stage.state_dict().items()}
    logits, masks, known = labeled(4)
    stage.absorb_labeled(stage.labeled_statistics(logits, masks, known & False))
    torch.testing.assert_close(stage.state_dict(), state, rtol=0, atol=0)
    assert before or stage.figures(torch.zeros(0))["threshold"] == np.float32(0.95)

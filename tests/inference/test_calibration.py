"""Calibration and the worth of uncertainty against NumPy, pixel by pixel."""

import json

import numpy as np
import pytest
import torch
from commandline import cli

from farcluss.data.base import IGNORE
from farcluss.inference.calibration import BINS, FINE, Calibration, count_pixels
from farcluss.inference.probs import uncertainty


def drawn(classes=4, size=(17, 23), seed=0):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(classes, 0.4), size).transpose(2, 0, 1)
    truth = np.array([rng.choice(classes, p=probs[:, y, x]) for y, x in np.ndindex(size)]).reshape(size)
    truth[rng.random(size) < 0.2] = IGNORE
    return probs, truth.astype(np.uint8)


def counted(probs, truth):
    parts = [count_pixels(torch.from_numpy(p), torch.from_numpy(t)) for p, t in zip(probs, truth, strict=True)]
    return Calibration(*(sum(part[index] for part in parts).numpy() for index in (0, 1)))


@pytest.fixture(scope="module", params=[2, 4, 11])
def case(request):
    images = [drawn(request.param, seed=seed) for seed in range(3)]
    probs, truth = (np.stack(each) for each in zip(*images, strict=True))
    valid = truth != IGNORE
    flat = probs.transpose(1, 0, 2, 3)[:, valid]
    entropy = -(np.where(flat > 0, flat * np.log(np.where(flat > 0, flat, 1)), 0)).sum(0) / np.log(request.param)
    right = flat.argmax(0) == truth[valid]
    return counted(probs, truth), flat.max(0), entropy, right


def test_the_expected_calibration_error_is_that_of_the_paper(case):
    """Guo et al. (2017), eq. 3, bin by bin."""
    found, confidence, _, right = case
    total = 0.0
    for low in np.arange(BINS) / BINS:
        own = (confidence >= low) & ((confidence < low + 1 / BINS) | (low + 1 / BINS >= 1))
        if own.any():
            total += own.mean() * abs(right[own].mean() - confidence[own].mean())
    assert found.ece == pytest.approx(total, abs=1e-9)
    assert found.accuracy == pytest.approx(right.mean()) and found.mean_confidence == pytest.approx(confidence.mean())


def test_the_auroc_is_the_share_of_pairs_in_order(case):
    found, _, entropy, right = case
    bins = np.minimum((entropy.clip(0, 1) * FINE).astype(int), FINE - 1)
    wrong, good = bins[~right][:, None], bins[right][None]
    assert found.auroc == pytest.approx(((wrong > good) + 0.5 * (wrong == good)).mean(), abs=1e-9)
    exact = (entropy[~right][:, None] > entropy[right][None]).mean()
    assert found.auroc == pytest.approx(exact, abs=2e-3)  # the bins are fine enough


def test_the_risk_is_the_error_of_the_surest(case):
    found, _, entropy, right = case
    order = np.argsort(entropy)
    for share in (0.3, 0.8, 0.9, 1.0):
        kept = order[: round(share * len(order))]
        assert found.risk(share) == pytest.approx((~right[kept]).mean(), abs=0.01)
    shares, errors = found.risk_coverage.T
    assert (shares[0], shares[-1]) == (0, 1) and errors[-1] == pytest.approx(1 - found.accuracy)


def test_certain_and_equal_probabilities():
    one = torch.zeros(3, 2, 2)
    one[1] = 1
    assert uncertainty(one.numpy()).max() == 0 and uncertainty(torch.full((3, 2), 1 / 3).numpy()).min() > 1 - 1e-6
    found = Calibration(*(each.numpy() for each in count_pixels(one, torch.ones(2, 2, dtype=torch.uint8))))
    assert (found.ece, found.accuracy, found.risk(0.5)) == (0, 1, 0) and np.isnan(found.auroc)
    assert found.to_json()["auroc_of_errors"] is None


def test_eval_tells_it(trained_run):
    weights = trained_run / "weights" / "last.safetensors"
    plain, with_it = (json.loads(cli("eval", weights, "--json", "--workers", "0", *more).out)
                      for more in ([], ["--calibration"]))  # fmt: skip
    trust = with_it.pop("calibration")
    assert with_it == plain and trust["accuracy"] == pytest.approx(plain["pixel_accuracy"])
    assert 0 < trust["ece"] < 1 and 0 < trust["auroc_of_errors"] < 1
    told = cli("eval", weights, "--calibration", "--workers", "0").out
    assert f"expected calibration error {100 * trust['ece']:.2f} %" in told and "AUROC" in told

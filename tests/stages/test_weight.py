"""Eq. 5, 6: normalized entropy and the pixel weights made of it."""

from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from farcluss.stages.weight import EntropyWeight, Threshold, Uniform
from farcluss.tensors.entropy import normalized_entropy

NOTHING = torch.zeros(0)
"""The statistics of a stage that needs none."""
KINDS = ["smooth", "tied", "one-hot"]
FORMS = [
    {},
    {"form": "linear", "gamma": 3.0, "beta": 3.0},
    {"form": "power"},
    {"form": "power", "gamma": 2.0},
    {"form": "power", "gamma": 0.5},
    {"form": "exp"},
    {"form": "exp", "beta": 3.0},
    {"gate": True},
    {"gate": True, "high_entropy": 0.25},
    {"form": "exp", "beta": 2.0, "gate": True, "high_entropy": 0.75},
]


def weigh(stage, probs):
    return stage.pixels(replace(oracles.labels_of(probs), entropy=normalized_entropy(probs)), NOTHING)


@pytest.mark.parametrize("space", oracles.SPACES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("c", [2, 5, 21])
def test_entropy_equals_oracle(space, kind, c):
    probs = oracles.random_probs(space, c=c, kind=kind)
    found = normalized_entropy(probs)
    assert found.dtype == torch.float32 and found.shape == (2, *space)
    np.testing.assert_allclose(oracles.rows(found, False), oracles.entropy(oracles.rows(probs)), atol=2e-6)


@pytest.mark.parametrize("space", oracles.SPACES)
@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("c", [2, 5])
def test_weight_equals_oracle(space, options, c):
    probs = oracles.random_probs(space, c=c)
    found = weigh(EntropyWeight(**options), probs)
    assert found.dtype == torch.float32 and found.shape == (2, *space)
    expected = oracles.weight(oracles.rows(probs), **options)
    np.testing.assert_allclose(oracles.rows(found, False), expected, atol=5e-6)


@pytest.mark.parametrize("c", [2, 3, 7, 19, 21, 150])
@pytest.mark.parametrize("options", [{}, {"form": "power", "gamma": 0.5}, {"form": "power", "gamma": 2.0}], ids=str)
def test_certainty_weighs_1_and_ignorance_0(c, options):
    stage = EntropyWeight(**options)
    certain, ignorant = torch.zeros(1, c, 2, 2), torch.full((1, c, 2, 2), 1 / c)
    certain[:, c - 1] = 1
    np.testing.assert_allclose(weigh(stage, certain), 1, atol=1e-6)
    np.testing.assert_allclose(weigh(stage, ignorant), 0, atol=2e-3)  # a root turns one rounding of H into 1e-3
    assert weigh(stage, ignorant).min() >= 0


def test_worked_example():
    probs = torch.tensor([0.5, 0.3, 0.1, 0.1]).reshape(1, 4, 1, 1)
    entropy = -(0.5 * np.log(0.5) + 0.3 * np.log(0.3) + 0.2 * np.log(0.1)) / np.log(4)
    np.testing.assert_allclose(normalized_entropy(probs).item(), entropy, atol=1e-6)
    np.testing.assert_allclose(weigh(EntropyWeight(), probs).item(), 1 - entropy, atol=1e-6)


def test_all_classes_count_not_only_the_kept_ones():
    near, far = torch.tensor([0.5, 0.3, 0.2, 0.0]), torch.tensor([0.5, 0.3, 0.1, 0.1])
    weights = weigh(EntropyWeight(), torch.stack([near, far], dim=1).reshape(1, 4, 1, 2)).flatten()
    assert weights[0] > weights[1]


def test_high_entropy_is_readable_by_the_diagnostics():
    assert EntropyWeight().high_entropy == 0.5
    assert EntropyWeight(high_entropy=0.25).high_entropy == 0.25


@pytest.mark.parametrize("space", oracles.SPACES)
def test_threshold_is_inclusive(space):
    probs = torch.zeros(2, 3, *space)
    probs[0, 0], probs[0, 1], probs[1, 0], probs[1, 2] = 0.75, 0.25, 0.2578125, 0.7421875
    found = weigh(Threshold(threshold=0.75), probs)
    assert found.dtype == torch.float32 and (found[0] == 1).all() and (found[1] == 0).all()


def test_threshold_is_0_95_by_default():
    probs = torch.tensor([[0.94, 0.06], [0.96, 0.04]]).T.reshape(1, 2, 1, 2)
    assert weigh(Threshold(), probs).flatten().tolist() == [0, 1]


@pytest.mark.parametrize("space", oracles.SPACES)
def test_uniform_is_1(space):
    found = weigh(Uniform(), oracles.random_probs(space))
    assert found.dtype == torch.float32 and found.shape == (2, *space) and (found == 1).all()


@pytest.mark.parametrize("stage", [*(EntropyWeight(**o) for o in FORMS), Threshold(threshold=0.6), Uniform()])
@oracles.PROPERTY
@given(oracles.scenes(), st.sampled_from(KINDS))
def test_no_axis_is_special_and_weights_stay_in_bounds(stage, scene, kind):
    space, axes, b, c, seed = scene
    probs = oracles.random_probs(space, b, c, seed, kind)
    found = weigh(stage, probs)
    assert ((found >= 0) & (found <= 1)).all()
    for move in oracles.moves(space, axes):
        torch.testing.assert_close(weigh(stage, move(probs)), move(found), rtol=0, atol=2e-3)

"""Eq. 2, 3: fuzzy and hard pseudo-labels."""

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from farcluss.stages.pseudo_label import Fuzzy, Hard

KINDS = ["smooth", "tied", "one-hot"]


def check(labels, probs, k):
    values, classes = oracles.fuzzy(oracles.rows(probs), k)
    assert labels.values.dtype == torch.float32 and labels.classes.dtype == torch.int64
    assert labels.values.shape == labels.classes.shape == (probs.shape[0], values.shape[1], *probs.shape[2:])
    np.testing.assert_array_equal(oracles.rows(labels.classes), classes)
    np.testing.assert_allclose(oracles.rows(labels.values), values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("space", oracles.SPACES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("c", "k"), [(5, 1), (5, 3), (5, 5), (5, 9), (2, 1), (2, 2), (2, 3), (21, 3)])
def test_fuzzy_equals_oracle(space, kind, c, k):
    probs = oracles.random_probs(space, c=c, kind=kind)
    check(Fuzzy(top_k=k)(probs), probs, min(k, c))


@pytest.mark.parametrize("space", oracles.SPACES)
@pytest.mark.parametrize("kind", KINDS)
def test_hard_equals_top_1_with_value_1(space, kind):
    probs = oracles.random_probs(space, kind=kind)
    labels = Hard()(probs)
    check(labels, probs, 1)
    assert (labels.values == 1).all()


def test_three_classes_by_default():
    probs = oracles.random_probs((3, 4))
    check(Fuzzy()(probs), probs, 3)


def test_worked_example_renormalizes_probabilities():
    probs = torch.tensor([0.5, 0.3, 0.1, 0.1]).reshape(1, 4, 1, 1)
    labels = Fuzzy(top_k=3)(probs)
    np.testing.assert_allclose(labels.values.flatten(), [5 / 9, 3 / 9, 1 / 9], atol=1e-6)
    assert labels.classes.flatten().tolist() == [0, 1, 2]


@pytest.mark.parametrize("c", [2, 4, 19, 150])
def test_uniform_probabilities_keep_the_lowest_classes(c):
    labels = Fuzzy(top_k=3)(torch.full((1, c, 8, 8), 1 / c))
    k = min(3, c)
    assert (labels.classes == torch.arange(k).reshape(1, k, 1, 1)).all()
    np.testing.assert_allclose(labels.values, 1 / k, atol=1e-6)


def test_two_classes_keep_the_full_distribution():
    probs = oracles.random_probs((3, 4), c=2)
    labels = Fuzzy(top_k=3)(probs)
    np.testing.assert_allclose(labels.values, probs.sort(dim=1, descending=True).values, atol=1e-6)


@oracles.PROPERTY
@given(oracles.scenes(), st.integers(1, 7), st.sampled_from(KINDS))
def test_labels_are_sorted_distributions_on_leading_classes(scene, k, kind):
    space, _, b, c, seed = scene
    probs = oracles.random_probs(space, b, c, seed, kind)
    labels = Fuzzy(top_k=k)(probs)
    np.testing.assert_allclose(labels.values.sum(dim=1), 1, atol=1e-6)
    assert (labels.values[:, 1:] <= labels.values[:, :-1]).all()
    order = np.argsort(-probs.numpy(), axis=1, kind="stable")
    np.testing.assert_array_equal(labels.classes, order[:, : min(k, c)])


@pytest.mark.parametrize("stage", [Fuzzy(top_k=2), Fuzzy(top_k=3), Hard()])
@oracles.PROPERTY
@given(oracles.scenes(), st.sampled_from(KINDS))
def test_no_axis_is_special(stage, scene, kind):
    space, axes, b, c, seed = scene
    probs = oracles.random_probs(space, b, c, seed, kind)
    for move in oracles.moves(space, axes):
        for moved, expected in zip(stage(move(probs)), map(move, stage(probs)), strict=True):
            torch.testing.assert_close(moved, expected)

"""Eq. 9, 10: prototypes of confident pixels and the pull toward them."""

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given

from farcluss.stages.contrast import NoContrast, Prototype

OPTIONS = [
    {},
    {"min_weight": 0.5},
    {"include_labeled": True},
    {"include_labeled": True, "min_weight": 0.5, "repulsion": 0.3},
    {"repulsion": 0.5},
    {"detach": False, "repulsion": 0.5},
]


def embed(space, b=2, d=4, seed=0, dtype=torch.float32):
    return oracles.random_logits(space, b, d, seed, dtype, scale=1.0)


def stage_of(confidence=0.75, **options):
    return Prototype(dim=4, confidence=confidence, **options)


def facts(anchors, min_weight=0.0, include_labeled=False, **_):
    """Classes and choice of every pixel, at confidence 0.75."""
    known = [oracles.rows(field, False) for field in anchors]
    return known[0], oracles.confident(*known, 0.75, min_weight, include_labeled)


def unconfident(space):
    anchors = oracles.random_anchors(space, labeled=False)
    return anchors._replace(confidence=torch.full_like(anchors.confidence, 0.5))


@pytest.mark.parametrize("space", oracles.SPACES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("c", "seed"), [(5, 0), (2, 1), (30, 2)])
def test_loss_equals_oracle(space, options, c, seed):
    z, anchors = embed(space, seed=seed), oracles.random_anchors(space, c=c, seed=seed)
    classes, chosen = facts(anchors, **options)
    expected = oracles.contrast(oracles.rows(z), classes, chosen, options.get("repulsion", 0.0))
    found = stage_of(**options)(z, anchors, c)
    assert found.loss.shape == found.prototype_cosine.shape == ()
    np.testing.assert_allclose([found.loss.item(), found.prototype_cosine.item()], expected, rtol=1e-5, atol=1e-6)


def test_confidence_0_95_and_128_dimensions_by_default():
    stage = Prototype()
    assert stage.dim == 128 and Prototype(dim=7).dim == 7
    z, anchors = oracles.random_logits((3, 4), c=128), oracles.random_anchors((3, 4), labeled=False)
    confidence = torch.where(anchors.confidence == 0.75, 0.94, 0.96)
    found = stage(z, anchors._replace(confidence=confidence), 5).loss.item()
    chosen = oracles.rows(anchors.valid & (confidence > 0.95), False)
    expected = oracles.contrast(oracles.rows(z), oracles.rows(anchors.classes, False), chosen)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("space", oracles.SPACES)
@pytest.mark.parametrize("detach", [True, False])
def test_pixels_that_are_not_chosen_change_nothing(space, detach):
    anchors = oracles.random_anchors(space)
    chosen = torch.from_numpy(facts(anchors)[1]).reshape(2, *space)
    results = []
    for poison in (0.0, 1e3):
        z = embed(space).masked_fill(~chosen.unsqueeze(1), poison).requires_grad_()
        found = stage_of(detach=detach, repulsion=0.5)(z, anchors, 5)
        found.loss.backward()
        assert (z.grad.movedim(1, -1)[~chosen] == 0).all()
        results.append((found.loss.detach(), found.prototype_cosine.detach(), z.grad))
    torch.testing.assert_close(results[0], results[1])
    broken = embed(space).masked_fill(~chosen.unsqueeze(1), float("nan"))
    torch.testing.assert_close(stage_of(detach=detach, repulsion=0.5)(broken, anchors, 5).loss, results[0][0])


@pytest.mark.parametrize("space", oracles.SPACES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_no_confident_pixel_gives_0_with_a_graph(space, options):
    z = embed(space).requires_grad_()
    found = stage_of(**options)(z, unconfident(space), 5)
    assert found.loss.item() == 0 and found.prototype_cosine.item() == 0
    found.loss.backward()
    assert (z.grad == 0).all()


def test_one_class_has_no_pair_of_prototypes():
    anchors = oracles.random_anchors((3, 4), c=1)
    found = stage_of(repulsion=1.0)(embed((3, 4)), anchors, 5)
    expected = oracles.contrast(oracles.rows(embed((3, 4))), *facts(anchors))
    np.testing.assert_allclose([found.loss.item(), found.prototype_cosine.item()], expected, rtol=1e-5, atol=1e-6)
    assert expected[1] == 0


def test_collapse_shows_in_the_cosine_of_prototypes():
    z = torch.ones(2, 4, 3, 4)
    found = stage_of()(z, oracles.random_anchors((3, 4)), 5)
    np.testing.assert_allclose([found.loss.item(), found.prototype_cosine.item()], [0, 1], atol=1e-6)


def test_zero_embeddings_stay_finite():
    z = torch.zeros(2, 4, 3, 4, requires_grad=True)
    found = stage_of(detach=False, repulsion=0.5)(z, oracles.random_anchors((3, 4)), 5)
    found.loss.backward()
    assert found.loss.isfinite() and found.prototype_cosine.isfinite() and z.grad.isfinite().all()


@pytest.mark.parametrize("space", [(2, 3), (2, 1, 3)])
def test_attached_prototypes_pass_gradcheck(space):
    anchors = oracles.random_anchors(space, c=3, seed=1)
    stage = stage_of(detach=False, repulsion=0.5, include_labeled=True)
    z = embed(space, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: stage(x, anchors, 3).loss, z)


@pytest.mark.parametrize("space", [(2, 3), (2, 1, 3)])
@pytest.mark.parametrize("detach", [True, False])
def test_gradient_equals_that_of_the_oracle(space, detach):
    anchors = oracles.random_anchors(space, c=3, seed=1)
    z = embed(space, dtype=torch.float64).requires_grad_()
    loss = stage_of(detach=detach, include_labeled=True)(z, anchors, 3).loss
    assert loss.dtype == torch.float64
    loss.backward()
    classes, chosen = facts(anchors, include_labeled=True)
    fixed = oracles.prototypes(oracles.rows(z), classes, chosen) if detach else None
    expected = oracles.gradient(lambda x: oracles.contrast(x, classes, chosen, mu=fixed)[0], oracles.rows(z))
    np.testing.assert_allclose(oracles.rows(z.grad), expected, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_embeddings_give_float32(dtype):
    z, anchors = embed((3, 4), dtype=dtype), oracles.random_anchors((3, 4))
    found = stage_of()(z, anchors, 5)
    assert found.loss.dtype == torch.float32
    expected = oracles.contrast(oracles.rows(z), *facts(anchors))[0]
    np.testing.assert_allclose(found.loss.item(), expected, rtol=1e-5)


def test_autocast_leaves_prototypes_in_float32():
    z, anchors = embed((3, 4)), oracles.random_anchors((3, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = stage_of(repulsion=0.5)(z, anchors, 5)
    expected = oracles.contrast(oracles.rows(z), *facts(anchors), 0.5)
    np.testing.assert_allclose([found.loss.item(), found.prototype_cosine.item()], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("space", oracles.SPACES)
def test_none_is_0_and_wants_no_embedding(space):
    found = NoContrast()(embed(space), oracles.random_anchors(space), 5)
    assert NoContrast().dim == 0 and found.loss.item() == 0 and found.prototype_cosine.item() == 0


@pytest.mark.parametrize("stage", [*(stage_of(**o) for o in OPTIONS), NoContrast()])
@oracles.PROPERTY
@given(oracles.scenes())
def test_no_axis_is_special(stage, scene):
    space, axes, b, c, seed = scene
    z, anchors = embed(space, b, seed=seed), oracles.random_anchors(space, b, c, seed)
    expected = stage(z, anchors, c)
    for move in oracles.moves(space, axes):
        moved = stage(move(z), type(anchors)(*map(move, anchors)), c)
        torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-5)

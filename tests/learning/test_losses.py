"""Eq. 4, 8, 12: cross-entropy, its hard-pixel variant, and the weighted divergence from fuzzy labels."""

from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from farcluss.data.base import IGNORE
from farcluss.learning.losses import divergences, fuzzy_target, hard_pixels, pixel_cross_entropy, true_target
from farcluss.stages.pseudo_label import Fuzzy
from farcluss.stages.rebalance import MedianFrequency
from farcluss.stages.weight import EntropyWeight
from farcluss.tensors import chunks
from farcluss.tensors.entropy import normalized_entropy

BIN = 2**-8
"""Relative width of the widest bin of losses."""


@pytest.fixture(autouse=True, params=[None, 20], ids=["whole", "chunks"])
def chunked(request, monkeypatch):
    """All of it once as it is, and once in chunks of one to ten pixels."""
    if request.param:
        monkeypatch.setattr(chunks, "CPU_VALUES", request.param)


def cross_entropy(logits, masks):
    """Sum over the pixels that are not ignored, and their number."""
    (total,) = divergences(logits, [true_target(masks)])
    losses = pixel_cross_entropy(logits, masks)
    assert losses.shape == masks.shape and not losses.requires_grad
    torch.testing.assert_close(losses.sum(), total.detach(), rtol=1e-4, atol=1e-4)
    return total, (masks != oracles.IGNORE).sum().double()


def ohem(logits, masks, threshold, min_kept):
    """Sum over the hard pixels, and their number."""
    kept = hard_pixels(pixel_cross_entropy(logits, masks), masks, threshold=threshold, min_kept=min_kept)
    assert kept.shape == masks.shape and kept.dtype == torch.bool
    return cross_entropy(logits, torch.where(kept, masks, IGNORE))[0], kept.sum().double()


def fuzzy_kl(logits, labels, pixel_weight):
    """Weighted sum over the valid pixels."""
    return divergences(logits, [fuzzy_target(labels, pixel_weight)])[0]


def pair(result):
    total, count = result
    assert total.shape == count.shape == () and count.is_floating_point()
    return [total.item(), count.item()]


def omegas(space, b=2, seed=0, dtype=torch.float32):
    return oracles.random_labels(space, b, seed=seed + 50, dtype=dtype).entropy * 3


def expected_kl(logits, labels, pixel_weight):
    q, valid = oracles.dense_labels(labels, logits.shape[1]), oracles.rows(labels.valid, False)
    return oracles.weighted_kl(q, oracles.rows(logits), valid, oracles.rows(pixel_weight, False))


# --------------------------------------------------------------------------------------------------- cross-entropy


@pytest.mark.parametrize("space", oracles.SPACES)
@pytest.mark.parametrize("c", [2, 5, 21])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_cross_entropy_equals_oracle(space, c, dtype):
    logits, masks = oracles.random_logits(space, c=c), oracles.random_masks(space, c=c, dtype=dtype)
    expected = oracles.cross_entropy(oracles.rows(logits), oracles.rows(masks, False))
    np.testing.assert_allclose(pair(cross_entropy(logits, masks)), expected, rtol=1e-5)


@pytest.mark.parametrize("space", oracles.SPACES)
@pytest.mark.parametrize("loss", [cross_entropy, lambda x, m: ohem(x, m, threshold=0.7, min_kept=4)])
def test_ignored_pixels_change_nothing(space, loss):
    masks, results = oracles.random_masks(space), []
    for poison in (0.0, 1e4):
        logits = oracles.random_logits(space)
        logits[:, 0].masked_fill_(masks == oracles.IGNORE, poison)
        total, count = loss(logits.requires_grad_(), masks)
        total.backward()
        assert (logits.grad.movedim(1, -1)[masks == oracles.IGNORE] == 0).all()
        results.append((total.detach(), count, logits.grad))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("space", oracles.SPACES)
@pytest.mark.parametrize("loss", [cross_entropy, lambda x, m: ohem(x, m, threshold=0.7, min_kept=4)])
def test_all_ignored_gives_0_with_a_graph(space, loss):
    logits = oracles.random_logits(space).requires_grad_()
    total, count = loss(logits, torch.full((2, *space), oracles.IGNORE))
    assert total.item() == 0 and count.item() == 0
    total.backward()
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("space", oracles.SPACES)
def test_micro_batches_add_up(space):
    logits, masks = oracles.random_logits(space, b=4), oracles.random_masks(space, b=4)
    parts = [pair(cross_entropy(logits[i : i + 2], masks[i : i + 2])) for i in (0, 2)]
    np.testing.assert_allclose(np.sum(parts, axis=0), pair(cross_entropy(logits, masks)), rtol=1e-6)


# ------------------------------------------------------------------------------------------------------------ OHEM


@pytest.mark.parametrize("space", oracles.SPACES)
@pytest.mark.parametrize("c", [2, 5])
@pytest.mark.parametrize(("threshold", "min_kept"), [(0.7, 1), (0.1, 6), (0.01, 10), (0.0, 3), (0.5, 10**6)])
def test_ohem_keeps_the_exact_set_or_a_bin_more(space, c, threshold, min_kept):
    logits = oracles.random_logits(space, c=c, dtype=torch.float64)
    masks = oracles.random_masks(space, c=c)
    known = oracles.rows(logits), oracles.rows(masks, False), threshold, min_kept
    found = pair(ohem(logits, masks, threshold=threshold, min_kept=min_kept))
    least, most = oracles.ohem(*known), oracles.ohem(*known, slack=BIN)
    assert all(a - 1e-6 <= x <= b + 1e-6 for a, x, b in zip(least, found, most, strict=True))


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("min_kept", [1, 3, 7, 10, 11])
def test_ohem_is_exact_where_probabilities_are_bins_apart(threshold, min_kept):
    p = torch.arange(1, 11, dtype=torch.float64) / 11  # probability of the true class
    logits = torch.stack([p, 1 - p]).log().reshape(1, 2, 2, 5)
    masks = torch.zeros(1, 2, 5, dtype=torch.int64)
    expected = oracles.ohem(oracles.rows(logits), oracles.rows(masks, False), threshold, min_kept)
    np.testing.assert_allclose(pair(ohem(logits, masks, threshold=threshold, min_kept=min_kept)), expected, rtol=1e-6)


def test_ohem_of_certain_and_wrong_pixels():
    logits = torch.tensor([[1e3, 0.0], [0.0, 1e3]]).T.reshape(1, 2, 1, 2)
    masks = torch.zeros(1, 1, 2, dtype=torch.int64)
    assert pair(ohem(logits, masks, threshold=0.7, min_kept=1)) == [1000, 1]
    assert pair(ohem(logits, masks, threshold=0.7, min_kept=2)) == [1000, 2]


@pytest.mark.parametrize("exponent", [-30, -4, 0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ohem_keeps_its_number_however_sure_the_pixels_are(exponent, dtype):
    """The losses of all pixels may be as small or as large as they like: no scale of losses shares one bin."""
    losses = (torch.rand(2, 60, 50, generator=torch.Generator().manual_seed(0), dtype=dtype) + 0.5) * 10.0**exponent
    for wanted in (1, 700, 5999, 6001):
        kept = hard_pixels(losses, torch.zeros(2, 60, 50, dtype=torch.uint8), threshold=0.0, min_kept=wanted)
        bound = losses.flatten().sort(descending=True).values[min(wanted, 6000) - 1]
        assert kept[losses >= bound].all() and not kept[losses < bound * (1 - BIN)].any()


def test_ohem_gradient_is_that_of_cross_entropy_on_kept_pixels():
    logits, masks = oracles.random_logits((3, 4), dtype=torch.float64), oracles.random_masks((3, 4))
    probs = logits.softmax(dim=1).gather(1, masks.where(masks != oracles.IGNORE, 0).unsqueeze(1)).squeeze(1)
    kept = masks.where(probs <= 0.3, oracles.IGNORE)
    grads = []
    for loss, target in ((lambda x, m: ohem(x, m, threshold=0.3, min_kept=1), masks), (cross_entropy, kept)):
        x = logits.clone().requires_grad_()
        loss(x, target)[0].backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads)


# -------------------------------------------------------------------------------------------------------- fuzzy KL


@pytest.mark.parametrize("space", oracles.SPACES)
@pytest.mark.parametrize(("c", "k"), [(5, 3), (5, 1), (5, 5), (2, 2), (21, 3)])
def test_fuzzy_kl_equals_oracle(space, c, k):
    logits, pixel_weight = oracles.random_logits(space, c=c), omegas(space)
    labels = oracles.random_labels(space, c=c, k=k)
    found = fuzzy_kl(logits, labels, pixel_weight)
    assert found.shape == () and found.dtype == torch.float32
    np.testing.assert_allclose(found.item(), expected_kl(logits, labels, pixel_weight), rtol=1e-5)


@pytest.mark.parametrize("space", oracles.SPACES)
def test_invalid_pixels_change_nothing(space):
    labels, results = oracles.random_labels(space), []
    for poison in (0.0, 1e4):
        logits, pixel_weight = oracles.random_logits(space), omegas(space).masked_fill(~labels.valid, poison)
        logits[:, 0].masked_fill_(~labels.valid, poison)
        poisoned = replace(
            labels,
            values=labels.values.masked_fill(~labels.valid.unsqueeze(1), poison),
        )
        total = fuzzy_kl(logits.requires_grad_(), poisoned, pixel_weight)
        total.backward()
        assert (logits.grad.movedim(1, -1)[~labels.valid] == 0).all()
        results.append((total.detach(), logits.grad))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("space", oracles.SPACES)
def test_nan_labels_of_invalid_pixels_change_nothing(space):
    labels, pixel_weight = oracles.random_labels(space), omegas(space)
    nan = replace(labels, values=labels.values.masked_fill(~labels.valid.unsqueeze(1), float("nan")))
    grads = []
    for given_labels in (labels, nan):
        logits = oracles.random_logits(space).requires_grad_()
        fuzzy_kl(logits, given_labels, pixel_weight).backward()
        grads.append(logits.grad)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("space", oracles.SPACES)
def test_no_valid_pixel_gives_0_with_a_graph(space):
    labels = oracles.random_labels(space)
    logits = oracles.random_logits(space).requires_grad_()
    total = fuzzy_kl(logits, replace(labels, valid=torch.zeros_like(labels.valid)), omegas(space))
    assert total.item() == 0
    total.backward()
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("space", oracles.SPACES)
def test_zero_values_add_nothing_even_where_the_student_gives_0(space):
    probs = oracles.random_probs(space, kind="one-hot")
    labels = replace(oracles.random_labels(space), **Fuzzy(top_k=3)(probs)._asdict())
    logits = (probs * 1e4).requires_grad_()
    total = fuzzy_kl(logits, labels, omegas(space))
    total.backward()
    assert total.item() == 0 and logits.grad.isfinite().all()
    wrong = fuzzy_kl(-probs * 1e4, labels, omegas(space))
    np.testing.assert_allclose(wrong.item(), expected_kl(-probs * 1e4, labels, omegas(space)), rtol=1e-5)


def test_a_student_that_agrees_has_no_loss():
    probs = oracles.random_probs((3, 4))
    labels = replace(oracles.random_labels((3, 4)), **Fuzzy(top_k=5)(probs)._asdict())
    np.testing.assert_allclose(fuzzy_kl(probs.log(), labels, omegas((3, 4))).item(), 0, atol=1e-5)


def test_worked_example():
    labels = oracles.random_labels((1, 1), b=1, c=4)
    ones = torch.ones(1, 1, 1)
    probs = torch.tensor([0.5, 0.3, 0.1, 0.1]).reshape(1, 4, 1, 1)
    labels = replace(labels, **Fuzzy(top_k=3)(probs)._asdict(), valid=ones.bool())
    np.testing.assert_allclose(fuzzy_kl(probs.log(), labels, ones).item(), np.log(1 / 0.9), rtol=1e-5)


def test_gradients_flow_to_logits_only():
    labels, pixel_weight = oracles.random_labels((3, 4)), omegas((3, 4)).requires_grad_()
    labels.values.requires_grad_()
    fuzzy_kl(oracles.random_logits((3, 4)).requires_grad_(), labels, pixel_weight).backward()
    assert labels.values.grad is None and pixel_weight.grad is None


@pytest.mark.parametrize("space", oracles.SPACES)
@pytest.mark.parametrize(("count", "apply"), [("hard", "argmax"), ("soft", "expected")])
def test_stages_together_give_equation_8(space, count, apply):
    probs, logits = oracles.random_probs(space), oracles.random_logits(space)
    base = oracles.random_labels(space)
    labels = replace(base, **Fuzzy()(probs)._asdict(), entropy=normalized_entropy(probs))
    options = {"count": count, "apply": apply, "max_weight": 1.5, "normalize": "mean"}
    stage = MedianFrequency(**options)
    pixel_weight = EntropyWeight().pixels(labels, torch.zeros(0)) * stage.pixels(labels, stage.statistics(labels, 5))
    found = fuzzy_kl(logits, labels, pixel_weight) / labels.valid.sum()

    p, valid = oracles.rows(probs), oracles.rows(labels.valid, False)
    q = oracles.dense(*oracles.fuzzy(p, 3), 5)
    omega = oracles.pixel_omega(q, oracles.class_weights(q, valid, **options), apply)
    expected = oracles.weighted_kl(q, oracles.rows(logits), valid, oracles.weight(p) * omega) / valid.sum()
    np.testing.assert_allclose(found.item(), expected, rtol=1e-5)


# --------------------------------------------------------------------------------------------- other divergences


@pytest.mark.parametrize("space", oracles.SPACES)
@pytest.mark.parametrize(("c", "k"), [(5, 3), (5, 5), (2, 1)])
@pytest.mark.parametrize("kind", ["squared", "cross-entropy"])
def test_other_divergences_equal_their_formulas(space, c, k, kind):
    logits = oracles.random_logits(space, c=c, dtype=torch.float64).requires_grad_()
    labels, weight = oracles.random_labels(space, c=c, k=k, dtype=torch.float64), omegas(space, dtype=torch.float64)
    total = divergences(logits, [fuzzy_target(labels, weight)], [kind])[0]
    (gradient,) = torch.autograd.grad(total, logits)
    q, valid = oracles.dense_labels(labels, c), oracles.rows(labels.valid, False)
    s, w = oracles.rows(logits.detach().softmax(1)), np.where(valid, oracles.rows(weight, False), 0)
    if kind == "squared":
        each = ((s - q) ** 2).sum(1)
        slope = 2 * s * (s - q - (s * (s - q)).sum(1, keepdims=True))
    else:
        each = -(q * np.log(s)).sum(1)
        slope = q.sum(1, keepdims=True) * s - q
    assert total.item() == pytest.approx((w * each).sum(), rel=1e-12)
    np.testing.assert_allclose(oracles.rows(gradient), w[:, None] * slope, rtol=0, atol=1e-14)


def test_the_squared_distance_of_published_numbers():
    """CutMix-Seg: t = (.9, .1), (.99, .01) and s = (.6, .4), (.7, .3) differ by .18 and .1682."""
    teacher, student = (torch.tensor(rows, dtype=torch.float64).T.reshape(1, 2, 1, 2) for rows in (
        [[0.9, 0.1], [0.99, 0.01]], [[0.6, 0.4], [0.7, 0.3]]))  # fmt: skip
    labels = oracles.labels_of(teacher, k=2)
    targets = [fuzzy_target(labels, torch.tensor([[weights]]).double()) for weights in ([1.0, 0.0], [0.0, 1.0])]
    found = [divergences(student.log(), [target], ["squared"]).item() for target in targets]
    assert found == pytest.approx([0.18, 0.1682], rel=1e-12)


def test_targets_may_have_divergences_of_their_own():
    logits = oracles.random_logits((3, 4), b=4, dtype=torch.float64)
    labels, weight = oracles.random_labels((3, 4), dtype=torch.float64), omegas((3, 4), dtype=torch.float64)
    targets = [true_target(oracles.random_masks((3, 4))), fuzzy_target(labels, weight)]
    both = divergences(logits, targets, ["kl", "squared"])
    apart = [divergences(part, [target], [kind]) for part, target, kind in zip(
        logits.split(2), targets, ("kl", "squared"), strict=True)]  # fmt: skip
    torch.testing.assert_close(both, torch.cat(apart))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_share_of_the_pixels_is_kept(share):
    logits, masks = oracles.random_logits((40, 50)), oracles.random_masks((40, 50))
    losses = pixel_cross_entropy(logits, masks)
    least = int(np.ceil(share * (masks != IGNORE).sum().item()))
    kept, wanted = (hard_pixels(losses, masks, threshold=0.0, min_kept=floor) for floor in (share, least))
    assert torch.equal(kept, wanted) and least <= kept.sum() <= 1.1 * least


# ------------------------------------------------------------------------------------------ precision and gradients


@pytest.mark.parametrize("space", [(2, 3), (2, 1, 3)])
def test_float64_passes_gradcheck(space):
    logits = oracles.random_logits(space, dtype=torch.float64).requires_grad_()
    masks, labels = oracles.random_masks(space), oracles.random_labels(space, dtype=torch.float64)
    pixel_weight = omegas(space, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, masks)[0], logits)
    assert torch.autograd.gradcheck(lambda x: fuzzy_kl(x, labels, pixel_weight), logits)


def test_gradients_in_float64_are_of_that_precision():
    """Also where weights are of float32, as those of hard labels are."""
    logits = oracles.random_logits((3, 4), dtype=torch.float64).requires_grad_()
    masks, labels = oracles.random_masks((3, 4)), oracles.random_labels((3, 4), dtype=torch.float64)
    pixel_weight = omegas((3, 4), dtype=torch.float64)
    total = 0.7 * cross_entropy(logits, masks)[0] + 0.3 * fuzzy_kl(logits, labels, pixel_weight)
    gradient = torch.autograd.grad(total, logits)[0]
    expected = oracles.rows(logits.detach().softmax(1))  # per pixel, a class's probability minus its share of the label
    true, valid = oracles.rows(masks, False), oracles.rows(labels.valid, False)
    hard = np.where((true != oracles.IGNORE)[:, None], expected - np.eye(256)[true][:, : expected.shape[1]], 0)
    q = oracles.dense_labels(labels, expected.shape[1])
    weight = np.where(valid, oracles.rows(pixel_weight, False), 0)[:, None]
    soft = weight * (q.sum(1, keepdims=True) * expected - q)
    np.testing.assert_allclose(oracles.rows(gradient), 0.7 * hard + 0.3 * soft, rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_losses_compute_in_at_least_float32(dtype):
    logits, masks = oracles.random_logits((3, 4), dtype=dtype), oracles.random_masks((3, 4))
    labels, pixel_weight = oracles.random_labels((3, 4)), omegas((3, 4))
    wide = torch.promote_types(dtype, torch.float32)
    total = fuzzy_kl(logits, labels, pixel_weight)
    supervised = cross_entropy(logits, masks)
    hard = ohem(logits, masks, threshold=0.7, min_kept=1)
    assert total.dtype == supervised[0].dtype == hard[0].dtype == wide
    known = oracles.rows(logits), oracles.rows(masks, False)
    np.testing.assert_allclose(total.item(), expected_kl(logits, labels, pixel_weight), rtol=1e-5)
    np.testing.assert_allclose(pair(supervised), oracles.cross_entropy(*known), rtol=1e-5)
    np.testing.assert_allclose(pair(hard), oracles.ohem(*known, 0.7, 1), rtol=1e-5)


def test_autocast_leaves_losses_in_float32():
    logits, masks = oracles.random_logits((3, 4)), oracles.random_masks((3, 4))
    labels, pixel_weight = oracles.random_labels((3, 4)), omegas((3, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, supervised = fuzzy_kl(logits, labels, pixel_weight), cross_entropy(logits, masks)
        hard = ohem(logits, masks, threshold=0.7, min_kept=1)
    known = oracles.rows(logits), oracles.rows(masks, False)
    np.testing.assert_allclose(total.item(), expected_kl(logits, labels, pixel_weight), rtol=1e-5)
    np.testing.assert_allclose(pair(supervised), oracles.cross_entropy(*known), rtol=1e-5)
    np.testing.assert_allclose(pair(hard), oracles.ohem(*known, 0.7, 1), rtol=1e-5)


@oracles.PROPERTY
@given(oracles.scenes(), st.integers(1, 3))
def test_no_axis_is_special(scene, k):
    space, axes, b, c, seed = scene
    logits, masks = oracles.random_logits(space, b, c, seed), oracles.random_masks(space, b, c, seed)
    labels, pixel_weight = oracles.random_labels(space, b, c, k, seed), omegas(space, b, seed)

    def losses(move):
        moved = move(logits), move(masks)
        hard = ohem(*moved, threshold=0.3, min_kept=3)
        return *cross_entropy(*moved), *hard, fuzzy_kl(move(logits), labels.map(move), move(pixel_weight))

    for move in oracles.moves(space, axes):
        torch.testing.assert_close(losses(move), losses(lambda t: t), rtol=1e-4, atol=1e-5)

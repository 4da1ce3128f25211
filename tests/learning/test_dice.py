"""The soft Dice losses, alone and in the learner, against float64 NumPy."""

from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from small_learner import make, make_batch

from farcluss.learning.batches import split
from farcluss.learning.dice import dice, image_dice, overlaps
from farcluss.learning.losses import fuzzy_target, true_target
from farcluss.recipes.training import Loss
from farcluss.tensors import chunks

BOTH = Loss(supervised="dice-cross-entropy", unsupervised_dice=2.0)


@pytest.fixture(autouse=True, params=[None, 20], ids=["whole", "chunks"])
def chunked(request, monkeypatch):
    """All of it once as it is, and once in chunks of one to ten pixels."""
    if request.param:
        monkeypatch.setattr(chunks, "CPU_VALUES", request.param)


def expected(logits, q, weight, smooth=1e-5):
    """The loss of each image, from logits and dense labels `(B, C, *S)` and weights `(B, *S)`, class by class."""
    losses = []
    for image in range(len(logits)):
        p = np.exp(oracles.log_softmax(oracles.rows(logits[image : image + 1])))
        w, t = oracles.rows(weight[image : image + 1], False), oracles.rows(q[image : image + 1])
        counts = w > 0
        found = []
        for c in range(1, logits.shape[1]):
            above = 2 * (w * t[:, c] * p[:, c])[counts].sum() + smooth
            found.append(1 - above / ((w * (t[:, c] + p[:, c]))[counts].sum() + smooth))
        losses.append(np.mean(found))
    return np.array(losses)


def one_hot(masks, c):
    return torch.stack([(masks == label).double() for label in range(c)], 1)


def dense(labels, c):
    q = torch.zeros(len(labels.values), c, *labels.values.shape[2:], dtype=torch.float64)
    return q.scatter_(1, labels.classes, labels.values.double())


def weighted(labels):
    """The labels with some weight of each pixel, for which the entropy stands in."""
    return fuzzy_target(labels, labels.entropy)


def per_image(logits, target):
    return image_dice(*overlaps(logits, target))


@pytest.mark.parametrize("space", oracles.SPACES)
@pytest.mark.parametrize("c", [2, 5, 21])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_dice_of_masks_equals_oracle(space, c, dtype):
    logits, masks = oracles.random_logits(space, 3, c), oracles.random_masks(space, 3, c, dtype=dtype)
    wanted = expected(logits, one_hot(masks, c), (masks != oracles.IGNORE).double())
    np.testing.assert_allclose(per_image(logits, true_target(masks)), wanted, rtol=1e-5)
    (total,) = dice(logits, [true_target(masks)])
    assert total.item() == pytest.approx(wanted.sum(), rel=1e-5)


@pytest.mark.parametrize("space", oracles.SPACES)
@pytest.mark.parametrize(("c", "k"), [(2, 2), (5, 3), (5, 1)])
def test_dice_of_fuzzy_labels_equals_oracle(space, c, k):
    logits, labels = oracles.random_logits(space, 3, c), oracles.random_labels(space, 3, c, k)
    wanted = expected(logits, dense(labels, c), labels.entropy * labels.valid)
    np.testing.assert_allclose(per_image(logits, weighted(labels)), wanted, rtol=1e-5)


def test_each_target_has_its_run_of_images():
    logits, masks, labels = (
        oracles.random_logits((4, 5), 5),
        oracles.random_masks((4, 5), 3),
        oracles.random_labels((4, 5)),
    )
    targets = [true_target(masks), weighted(labels)]
    apart = [per_image(logits[:3], targets[0]).sum(), per_image(logits[3:], targets[1]).sum()]
    torch.testing.assert_close(dice(logits, targets), torch.stack(apart))
    assert dice(logits[:0], []).shape == (0,) and dice(logits[:0], [true_target(masks[:0])]).tolist() == [0]


def test_right_wrong_and_absent():
    """Two classes seen and found, one found where the other is, one neither there nor found; by hand."""
    masks = torch.tensor([[[1, 1, 2, 2]], [[0, 0, 0, 0]], [[255, 255, 255, 255]]])
    said = torch.tensor([[[1, 1, 1, 1]], [[0, 0, 0, 0]], [[3, 2, 1, 0]]])
    logits = one_hot(said, 4) * 1e3
    # First image: class 1 has 2 of 4 + 2, class 2 nothing of 2, class 3 is neither there nor found.
    wanted = [(1 - 4 / 6 + 1 + 0) / 3, 0, 0]
    np.testing.assert_allclose(per_image(logits, true_target(masks)), wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["masks", "labels"])
def test_gradient_by_differences(kind):
    logits = oracles.random_logits((2, 2, 2), 2, 3, dtype=torch.float64).requires_grad_()
    labels = oracles.random_labels((2, 2, 2), 2, 3, 2, dtype=torch.float64)
    target = true_target(oracles.random_masks((2, 2, 2), 2, 3)) if kind == "masks" else weighted(labels)
    torch.autograd.gradcheck(lambda x: per_image(x, target), [logits])
    torch.autograd.gradcheck(lambda x: overlaps(x, target), [logits])


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf, 1e4])
@pytest.mark.parametrize("kind", ["masks", "labels"])
def test_pixels_that_do_not_count_change_nothing(kind, poison):
    masks, labels = oracles.random_masks((3, 4)), oracles.random_labels((3, 4))
    valid = masks != oracles.IGNORE if kind == "masks" else labels.valid
    results = []
    for bad in (0.0, poison):
        logits = torch.where(valid.unsqueeze(1), oracles.random_logits((3, 4)), bad).requires_grad_()
        poisoned = replace(labels, values=torch.where(valid.unsqueeze(1), labels.values, bad))
        poisoned = replace(poisoned, entropy=torch.where(valid, labels.entropy, bad))
        target = true_target(masks) if kind == "masks" else weighted(poisoned)
        dice(logits, [target])[0].backward()
        results.append((dice(logits, [target]).detach(), logits.grad))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert results[1][1].isfinite().all() and results[1][1].abs().max() > 0
    assert (results[1][1].movedim(1, -1)[~valid] == 0).all()


def test_half_precision_is_widened_and_its_gradient_is_not():
    logits = oracles.random_logits((30, 40)).bfloat16().requires_grad_()
    target = true_target(oracles.random_masks((30, 40)))
    (loss,) = dice(logits, [target])
    loss.backward()
    full = logits.detach().float().requires_grad_()
    (wide,) = dice(full, [target])
    wide.backward()
    assert loss.dtype == torch.float32 and torch.equal(loss, wide)
    assert logits.grad.dtype == torch.bfloat16 and torch.equal(logits.grad, full.grad.bfloat16())


# ----------------------------------------------------------------------------------------------------- the learner


@pytest.mark.parametrize("axes", [2, 3])
def test_the_learners_losses_equal_the_oracle(axes):
    plain, learner, batch = make(Loss(), axes), make(BOTH, axes), make_batch(axes)
    found = []
    for each in (plain, learner):
        views, statistics = each.pseudo_label(batch)
        found.append(each.losses(batch, views, each.totals(statistics, views), 0.7))
    without, losses = found
    assert "unsupervised_dice" not in without
    logits = learner.student(learner.normalize(torch.cat([batch.images, views[0].images]))).logits.detach()
    known, labels = (batch.masks != oracles.IGNORE).double(), views[0].labels
    supervised = expected(logits[:2], one_hot(batch.masks, 4), known).mean()
    unsupervised = expected(logits[2:], dense(labels, 4), (1 - labels.entropy) * labels.valid).mean()
    assert losses["supervised"].item() == pytest.approx(without["supervised"].item() + supervised, rel=1e-6)
    assert losses["unsupervised"].item() == without["unsupervised"].item()
    assert losses["unsupervised_dice"].item() == pytest.approx(unsupervised, rel=1e-6)
    total = without["total"].item() + supervised + 0.7 * BOTH.unsupervised * 2.0 * unsupervised
    assert losses["total"].item() == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("settings", [{"unsupervised": 0.0}, {"unsupervised_dice": 0.0}])
def test_without_weight_there_is_no_unsupervised_dice(settings):
    learner, batch = make(BOTH.model_copy(update=settings)), make_batch()
    views, statistics = learner.pseudo_label(batch)
    assert "views" not in statistics
    assert "unsupervised_dice" not in learner.losses(batch, views, learner.totals(statistics, views), 1.0)


def test_a_supervised_step_has_the_dice_of_masks():
    learner, batch = make(BOTH), make_batch()
    full, (_, statistics) = (
        learner.pseudo_label(batch),
        learner.pseudo_label(batch._replace(unlabeled=None, valid=None)),
    )
    losses = learner.losses(batch, None, learner.totals(statistics, None), 1.0)
    with_views = learner.losses(batch, full[0], learner.totals(full[1], full[0]), 1.0)
    assert losses.keys() == {"supervised", "total"}
    assert losses["supervised"].item() == pytest.approx(with_views["supervised"].item(), rel=1e-12)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("number", [1, 2])
def test_micro_batches_add_up(number, apart):
    """Losses and gradients; without a contrast, which would need a first pass."""
    learner, batch = make(BOTH.model_copy(update={"contrastive": 0.0})), make_batch()
    views, statistics = learner.pseudo_label(batch)
    totals, results = learner.totals(statistics, views), []
    for parts in ([(batch, views)], split(batch, views, number, apart)):
        learner.student.zero_grad()
        sums: dict = {}
        for part, known in parts:
            losses = learner.losses(part, known, totals, 1.0)
            losses["total"].backward()
            sums |= {name: sums.get(name, 0) + value.detach() for name, value in losses.items()}
        results.append((sums, [p.grad.clone() for p in learner.student.parameters() if p.grad is not None]))
    assert len(parts) == number * (1 + apart)
    for name in ("total", "supervised", "unsupervised", "unsupervised_dice"):
        torch.testing.assert_close(results[0][0][name], results[1][0][name], rtol=1e-10, atol=0)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-9, atol=1e-12)

"""Several views in the unsupervised loss: their shares and divisors, against NumPy pixel by pixel."""

import numpy as np
import pytest
import torch
from small_learner import CLASSES, make, make_batch

from farcluss.errors import RecipeError
from farcluss.learning.batches import split
from farcluss.recipes.training import Loss
from farcluss.stages.augment import Identity
from farcluss.stages.base import View
from farcluss.stages.weight import EntropyWeight, Threshold


class Darker(Identity):
    """Two views: the weak one, and a darker one of which a part is invalid."""

    def strong(self, scene):
        images, labels = scene.weak.images, scene.weak.labels
        out = torch.zeros_like(labels.valid)
        out[:, 1] = True
        darker = labels.map(lambda tensor: tensor & ~out if tensor.dtype == torch.bool else tensor)
        return scene.weak, View(images / 2, darker)


def mean_divergences(learner, views, weight, divisor):
    """Sum of the weighted divergences of each view, and its number of pixels, in NumPy."""
    sums, counts = [], []
    for images, labels in ((view.images, view.labels) for view in views):
        logits = learner.student(learner.normalize(images)).logits.movedim(1, -1).flatten(0, -2).detach().numpy()
        log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        values, classes = (t.movedim(1, -1).flatten(0, -2).numpy() for t in (labels.values, labels.classes))
        valid, factor = labels.valid.flatten().numpy(), weight(labels)
        divergence = (values * (np.log(values) - np.take_along_axis(log_probs, classes, 1))).sum(1)
        sums.append((factor * divergence)[valid].sum())
        counts.append({"valid": valid.sum(), "kept": (valid & (factor > 0)).sum(), "all": len(valid)}[divisor])
    return np.array(sums), np.array(counts)


def sure(labels):
    return (labels.confidence.flatten().numpy() >= 0.5).astype(float)


def certain(labels):
    return 1 - labels.entropy.flatten().numpy()


def omega(labels, views):
    """Eq. 7 of the pixels of one view, counted over all."""
    first = np.concatenate([each.classes[:, 0][each.valid].numpy() for each in (v.labels for v in views)])
    counts = np.bincount(first, minlength=CLASSES)
    weights = np.ones(CLASSES)
    weights[counts > 0] = np.minimum(np.median(counts[counts > 0]) / (counts[counts > 0] + 1e-6), 10)
    weights *= counts.sum() / (weights * counts).sum()
    return weights[labels.classes[:, 0].flatten().numpy()]


@pytest.mark.parametrize("shares", [None, [1.0, 0.25], [0.0, 2.0]])
@pytest.mark.parametrize("divisor", ["valid", "kept", "all"])
@pytest.mark.parametrize(("stage", "weight"), [(Threshold(threshold=0.5), sure), (EntropyWeight(), certain)])
def test_the_unsupervised_loss_of_two_views(shares, divisor, stage, weight):
    learner = make(Loss(view_shares=shares, divisor=divisor), augment=Darker(), weight=stage)
    batch = make_batch()
    views, statistics = learner.pseudo_label(batch)
    totals = learner.totals(statistics, views)
    found = learner.losses(batch, views, totals, 1.0)
    sums, counts = mean_divergences(learner, views, lambda each: weight(each) * omega(each, views), divisor)
    assert totals.pixels.tolist() == counts.tolist() and (counts[1] < counts[0]) == (divisor != "all")
    wanted = sums.sum() / counts.sum() if shares is None else (np.array(shares) * sums / counts).sum()
    assert found["unsupervised"].item() == pytest.approx(wanted, rel=1e-5) and wanted > 0
    for apart in (False, True):
        parts = [learner.losses(*part, totals, 1.0) for part in split(batch, views, 2, apart)]
        for name in ("supervised", "unsupervised"):
            assert sum(part[name] for part in parts).item() == pytest.approx(found[name].item(), rel=1e-9)


def test_shares_are_as_many_as_views():
    learner = make(Loss(view_shares=[0.5, 0.5]))
    with pytest.raises(RecipeError) as caught:
        learner.pseudo_label(make_batch())
    assert str(caught.value) == (
        "loss.view_shares has 2 numbers, but stages.augment makes 1 view and stages.perturb 0 more.\n"
        "Set stages.augment.views = 2, or give one number for each view."
    )


def test_no_pixel_is_kept():
    """The loss is 0, and has a gradient, of 0."""
    learner = make(Loss(divisor="kept", view_shares=[1.0]), weight=Threshold(threshold=1.0))
    batch = make_batch()
    views, statistics = learner.pseudo_label(batch)
    loss = learner.losses(batch, views, learner.totals(statistics, views), 1.0)["unsupervised"]
    loss.backward()
    assert loss == 0 and all(p.grad is None or (p.grad == 0).all() for p in learner.student.parameters())

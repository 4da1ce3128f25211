"""The composition: total loss against an oracle, refusals of wrong shapes, gradients where they belong."""

import numpy as np
import pytest
import torch
from small_learner import CLASSES, make, make_batch

from farcluss.data.base import IGNORE
from farcluss.errors import PluginError
from farcluss.learning.batches import Batch, join_labels, split
from farcluss.learning.learner import Learner
from farcluss.stages.augment import Identity
from farcluss.stages.base import FuzzyLabels, PixelWeight, PseudoLabel, View
from farcluss.stages.contrast import NoContrast
from farcluss.stages.mix import NoMix
from farcluss.stages.weight import Uniform


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def logits_of(learner: Learner, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Logits and embeddings by hand-normalized images, pixels last: (N, C) and (N, D)."""
    shape = (1, 2, *[1] * (images.dim() - 2))
    scaled = (images - torch.tensor([0.2, 0.4]).double().view(shape)) / torch.tensor([0.5, 0.25]).double().view(shape)
    prediction = learner.student(scaled)
    return tuple(t.movedim(1, -1).flatten(0, -2).detach().numpy() for t in prediction)


@pytest.mark.parametrize("axes", [2, 3])
def test_total_equals_the_equations_written_out(axes):
    """Equations 1 to 12 pixel by pixel in NumPy, for a teacher equal to the student and no augmentation."""
    learner, batch = make(axes=axes), make_batch(axes)
    views, statistics = learner.pseudo_label(batch)
    losses = learner.losses(batch, views, learner.totals(statistics, views), ramp=0.7)

    labeled, _ = logits_of(learner, batch.images)
    truth = batch.masks.flatten().numpy()
    known = truth != IGNORE
    supervised = -np.log(softmax(labeled)[known, truth[known]]).mean()

    logits, embeddings = logits_of(learner, batch.unlabeled)
    probs, valid = softmax(logits), batch.valid.flatten().numpy()
    kept = np.argsort(-probs, axis=1, kind="stable")[:, :3]
    values = np.take_along_axis(probs, kept, 1)
    values /= values.sum(1, keepdims=True)
    weight = 1 + (probs * np.log(probs)).sum(1) / np.log(CLASSES)
    counts = np.bincount(kept[valid, 0], minlength=CLASSES)
    omega = np.ones(CLASSES)
    omega[counts > 0] = np.minimum(np.median(counts[counts > 0]) / (counts[counts > 0] + 1e-6), 10)
    omega *= counts.sum() / (omega * counts).sum()
    divergence = (values * (np.log(values) - np.log(np.take_along_axis(probs, kept, 1)))).sum(1)
    unsupervised = (weight * omega[kept[:, 0]] * divergence)[valid].sum() / valid.sum()

    sure = valid & (probs.max(1) >= 0.3)
    pulls = []
    for label in np.unique(kept[sure, 0]):
        members = embeddings[sure & (kept[:, 0] == label)]
        center = members.mean(0)
        pulls += list(1 - members @ center / np.linalg.norm(members, axis=1) / np.linalg.norm(center))
    contrastive = np.mean(pulls)

    assert losses["supervised"].item() == pytest.approx(supervised, rel=1e-6)
    assert losses["unsupervised"].item() == pytest.approx(unsupervised, rel=1e-5)
    assert losses["contrastive"].item() == pytest.approx(contrastive, rel=1e-5)
    expected = supervised + 0.7 * (0.5 * unsupervised + 0.1 * contrastive)
    assert losses["total"].item() == pytest.approx(expected, rel=1e-5)


def test_only_the_student_learns():
    learner, batch = make(), make_batch()
    views, statistics = learner.pseudo_label(batch)
    learner.losses(batch, views, learner.totals(statistics, views), 1.0)["total"].backward()
    assert all(parameter.grad is not None for parameter in learner.student.parameters())
    assert all(parameter.grad is None for parameter in learner.teacher.parameters())


def test_supervised_steps_reach_every_parameter():
    """DDP waits for the gradient of every parameter, the embedding head's too."""
    learner, batch = make(), make_batch()
    bare = Batch(batch.images, batch.masks)
    views, statistics = learner.pseudo_label(bare)
    assert views is None
    learner.losses(bare, views, learner.totals(statistics, views), 1.0)["total"].backward()
    assert all(parameter.grad is not None for parameter in learner.student.parameters())
    assert learner.student.embed.weight.grad.abs().max() == 0


def test_invalid_pixels_count_nowhere():
    learner, batch = make(), make_batch()
    views, statistics = learner.pseudo_label(batch)
    (view,) = views
    images, labels = view.images, view.labels
    poisoned = labels.map(
        lambda t: (
            t
            if t.dtype in (torch.bool, torch.int64)
            else torch.where(labels.valid if t.dim() == 3 else labels.valid.unsqueeze(1), t, 7.0)
        )
    )
    totals = learner.totals(statistics, views)
    clean = learner.losses(batch, views, totals, 1.0)
    other = learner.losses(batch, (View(images, poisoned),), totals, 1.0)
    assert clean["unsupervised"].item() == pytest.approx(other["unsupervised"].item(), rel=1e-9)
    assert clean["contrastive"].item() == pytest.approx(other["contrastive"].item(), rel=1e-9)
    assert statistics["valid"] == batch.valid.sum()


def test_diagnostics_against_numpy():
    learner, batch = make(), make_batch()
    _, statistics = learner.pseudo_label(batch)
    logits, _ = logits_of(learner, batch.unlabeled)
    probs, valid = softmax(logits), batch.valid.flatten().numpy()
    truth = batch.truth.flatten().numpy()
    entropy = -(probs * np.log(probs)).sum(1) / np.log(CLASSES)
    known = valid & (truth != IGNORE)
    assert statistics["high_entropy"] == (valid & (entropy > 0.5)).sum()
    assert statistics["known"] == known.sum()
    assert statistics["right"] == (known & (probs.argmax(1) == truth)).sum()
    assert statistics["histogram"].tolist() == np.bincount(probs.argmax(1)[valid], minlength=CLASSES).tolist()


class TwoViews(Identity):
    """Two equal strong views."""

    def strong(self, scene):
        return super().strong(scene) * 2


def test_two_equal_views_have_the_loss_of_one():
    batch = make_batch()
    totals = []
    for augment in (Identity(), TwoViews()):
        learner = make(augment=augment)
        views, statistics = learner.pseudo_label(batch)
        totals.append(learner.losses(batch, views, learner.totals(statistics, views), 1.0)["total"].item())
    assert totals[0] == pytest.approx(totals[1], rel=1e-6)


@pytest.mark.parametrize("axes", [2, 3])
def test_pieces_are_equal_runs_of_the_batch(axes):
    learner, batch = make(augment=TwoViews(), axes=axes), make_batch(axes)
    views, _ = learner.pseudo_label(batch)
    micro_batches = split(batch, views, 2)
    assert [len(tensor) for piece, _ in micro_batches for tensor in piece] == [1] * 10
    for found, wanted in zip(zip(*(piece for piece, _ in micro_batches), strict=True), batch, strict=True):
        assert torch.equal(torch.cat(found), wanted)
    for number, (images, labels) in enumerate((view.images, view.labels) for view in views):
        assert torch.equal(torch.cat([part[number].images for _, part in micro_batches]), images)
        joined = join_labels([part[number].labels for _, part in micro_batches])
        assert all(torch.equal(*pair) for pair in zip(vars(joined).values(), vars(labels).values(), strict=True))
    bare = Batch(batch.images, batch.masks)
    for piece, part in split(bare, None, 2):
        assert len(piece.images) == len(piece.masks) == 1
        assert (*piece[2:], part) == (None,) * 4


def test_micro_batches_apart_are_labeled_images_then_strong_views():
    learner, batch = make(augment=TwoViews()), make_batch()
    views, _ = learner.pseudo_label(batch)
    parts = split(batch, views, 2, apart=True)
    assert [(len(part.images), len(part.masks), len(known)) for part, known in parts] == [
        (1, 1, 0),
        (0, 0, 2),
    ] * 2
    for (labeled, _), (_, known), (whole, strong_of) in zip(
        parts[::2], parts[1::2], split(batch, views, 2), strict=True
    ):
        assert torch.equal(labeled.images, whole.images) and torch.equal(labeled.masks, whole.masks)
        assert all(torch.equal(a.images, b.images) for a, b in zip(known, strong_of, strict=True))
    assert len(split(Batch(batch.images, batch.masks), None, 2, apart=True)) == 2


def test_labels_taught_in_pieces_are_those_of_the_whole():
    batch, learner = make_batch(), make()
    whole, micro_batches = learner.pseudo_label(batch), learner.pseudo_label(batch, 2)
    for one, other in zip(vars(whole[0][0].labels).values(), vars(micro_batches[0][0].labels).values(), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(whole[1], micro_batches[1])


class BadWeight(PixelWeight):
    def pixels(self, labels, summed):
        return labels.values


class BadLabels(PseudoLabel):
    def forward(self, probs):
        return FuzzyLabels(probs[:, :2], probs[:, :1].long())


class BadRebalance(Uniform):
    def pixels(self, labels, summed):
        return super().pixels(labels, summed)[:1]


class BadAugment(Identity):
    def strong(self, scene):
        return (View(scene.weak.images[..., :2], scene.weak.labels),)


class BadMix(NoMix):
    def forward(self, view, scene):
        return View(view.images, view.labels.map(lambda tensor: tensor[:1]))


class BadContrast(NoContrast):
    dim = 3

    def forward(self, embeddings, anchors, classes):
        return super().forward(embeddings, anchors, classes)._replace(loss=embeddings.mean(1))


@pytest.mark.parametrize(
    "stages",
    [
        {"weight": BadWeight()},
        {"pseudo_label": BadLabels()},
        {"rebalance": BadRebalance()},
        {"augment": BadAugment()},
        {"mix": BadMix()},
        {"contrast": BadContrast()},
    ],
)
def test_wrong_shapes_are_refused_by_name(stages):
    kind = next(iter(stages))
    with pytest.raises(PluginError, match=f"Plugin {kind}/Bad.* returns .*, not .*; see docs/plugins.md") as caught:
        learner, batch = make(**stages), make_batch()
        views, statistics = learner.pseudo_label(batch)
        learner.losses(batch, views, learner.totals(statistics, views), 1.0)
    assert len(str(caught.value).splitlines()) == 1


def test_no_contrast_builds_no_head():
    learner = make(contrast=NoContrast(), weight=Uniform())
    batch = make_batch()
    views, statistics = learner.pseudo_label(batch)
    losses = learner.losses(batch, views, learner.totals(statistics, views), 1.0)
    assert learner.student.embed is None and "contrastive" not in losses

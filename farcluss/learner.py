"""The method: one student, one teacher, five stages, three losses.

A step of the paper reads from top to bottom in two functions. `teach` makes views and pseudo-labels, without gradient.
`losses` shows the student labeled images and strong views in one forward. Between the two, what must be known about the
whole batch (how many pixels, of which classes) is summed over micro-batches and processes, so that neither changes the
result.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from farcluss.data.base import IGNORE
from farcluss.distributed import all_sum, count_dtype, world_size
from farcluss.errors import FarclussError, PluginError
from farcluss.losses import cross_entropy, fuzzy_kl, ohem, wide
from farcluss.networks.base import Prediction
from farcluss.recipe import Loss
from farcluss.stages.base import (
    Anchors,
    Augment,
    Contrast,
    ContrastLoss,
    FuzzyLabels,
    PseudoLabel,
    PseudoLabels,
    Rebalance,
    Views,
    Weight,
)
from farcluss.stages.rebalance import class_counts
from farcluss.stages.weight import normalized_entropy


class Batch(NamedTuple):
    """One micro-batch on the device, images in [0, 1].

    Attributes:
        images: `(B, Cin, *S)` labeled images.
        masks: `(B, *S)` uint8.
        unlabeled: `(B, Cin, *S)`, or None in supervised steps.
        valid: `(B, *S)` bool, of the unlabeled images.
        truth: `(B, *S)` uint8 masks of the unlabeled images where they exist, for diagnostics alone; else `IGNORE`.
    """

    images: Tensor
    masks: Tensor
    unlabeled: Tensor | None = None
    valid: Tensor | None = None
    truth: Tensor | None = None


class Lesson(NamedTuple):
    """What the teacher has prepared for one micro-batch: strong views, each with labels that follow it."""

    views: tuple[Tensor, ...]
    labels: tuple[PseudoLabels, ...]


class Totals(NamedTuple):
    """What is known about the batch of all micro-batches and processes.

    Attributes:
        labeled: number of labeled pixels that are not ignored.
        micro_batches: into how many the batch is split on each process.
        pixels: N of eq. 8, valid pixels of the strong views; None in supervised steps.
        class_weights: `(C,)`, omega of eq. 7; None in supervised steps.
    """

    labeled: Tensor
    micro_batches: int
    pixels: Tensor | None = None
    class_weights: Tensor | None = None


Statistics = dict[str, Tensor]
T = TypeVar("T")


@dataclass(frozen=True)
class Stages:
    """The five stages, built."""

    augment: Augment
    pseudo_label: PseudoLabel
    weight: Weight
    rebalance: Rebalance
    contrast: Contrast
    names: dict[str, str] = field(default_factory=dict)
    """The plugin of each kind, for messages."""

    def modules(self) -> dict[str, nn.Module]:
        """Stage by kind, in the order of the data."""
        return {kind: stage for kind, stage in vars(self).items() if kind != "names"}

    def call(self, kind: str, stage: Callable[..., T], *arguments: Any, gives: type[T]) -> T:
        """What a stage, or one of its methods, gives.

        Raises:
            PluginError: the stage fails, or gives another type; names the plugin.
        """
        try:
            result = stage(*arguments)
        except (FarclussError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise PluginError(f"Plugin {self.name(kind)} fails: {type(error).__name__}: {error}") from error
        if not isinstance(result, gives):
            given, due = type(result).__name__, gives.__name__
            raise PluginError(f"Plugin {self.name(kind)} gives a {given} where a {due} is due; see docs/plugins.md.")
        return result

    def name(self, kind: str) -> str:
        """`kind/name` of the plugin of a kind."""
        return f"{kind}/{self.names.get(kind, type(self.modules()[kind]).__name__)}"

    def expect(self, kind: str, what: str, shape: Sequence[int], due: Sequence[int]) -> None:
        """Refuse a stage's tensor of a wrong shape. Raises PluginError that names the plugin."""
        expect(self.name(kind), what, shape, due)


class Normalize(nn.Module):
    """`(images - mean) / std` per channel, for `(B, Cin, *S)` in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images."""
        shape = (1, -1, *[1] * (images.dim() - 2))
        return (images - self.mean.view(shape)) / self.std.view(shape)


class Learner:
    """Composes student, teacher and stages into a loss. Knows nothing of optimizers, devices or files."""

    def __init__(
        self, student: Any, teacher: nn.Module, stages: Stages, normalize: Normalize, loss: Loss, classes: int
    ) -> None:
        """The student may be wrapped (DDP); it is only ever called as a whole, once per micro-batch."""
        self.student, self.teacher, self.stages = student, teacher, stages
        self.normalize, self.loss, self.classes = normalize, loss, classes

    @torch.no_grad()
    def teach(self, batch: Batch) -> tuple[Lesson | None, Statistics]:
        """Views of the unlabeled images and the teacher's labels for them (eq. 2 to 6).

        Returns:
            The lesson (None without unlabeled images), and statistics to be summed over micro-batches and processes
            before `totals` sees them.
        """
        statistics = {"labeled": (batch.masks != IGNORE).sum()}
        if batch.unlabeled is None or batch.valid is None:
            return None, statistics
        stages, call = self.stages, self.stages.call
        views = call("augment", stages.augment, batch.unlabeled, batch.valid, gives=Views)
        prediction = self._predict(self.teacher, views.weak)
        probs = wide(prediction.logits).softmax(1)
        fuzzy = call("pseudo_label", stages.pseudo_label, probs, gives=FuzzyLabels)
        weight = call("weight", stages.weight, probs, gives=Tensor)
        weak = PseudoLabels(fuzzy.values, fuzzy.classes, weight, probs.amax(1), batch.valid)
        self._check(views, weak)
        labels = tuple(follow(weak) for follow in views.follow)
        statistics |= {
            "rebalance": sum_of(
                [call("rebalance", stages.rebalance.statistics, each, self.classes, gives=Tensor) for each in labels]
            ),
            "pixels": sum_of([each.valid.sum() for each in labels]),
        }
        if batch.truth is not None:
            statistics |= self._diagnose(probs, weak, batch.truth)
        return Lesson(views.strong, labels), statistics

    def totals(self, statistics: Statistics, micro_batches: int) -> Totals:
        """N and the class weights from statistics summed over the whole batch (eq. 7)."""
        labeled = statistics["labeled"].clamp(min=1)
        if "pixels" not in statistics:
            return Totals(labeled, micro_batches)
        weights = self.stages.call("rebalance", self.stages.rebalance, statistics["rebalance"], gives=Tensor)
        self.stages.expect("rebalance", "class weights", weights.shape, (self.classes,))
        return Totals(labeled, micro_batches, statistics["pixels"].clamp(min=1), weights)

    def _check(self, views: Views, labels: PseudoLabels) -> None:
        """Refuse views and labels of wrong shapes. Raises PluginError."""
        expect, batch = self.stages.expect, labels.valid.shape
        for strong in views.strong:
            expect("augment", "a strong view", strong.shape, views.weak.shape)
        expect("augment", "follow functions", (len(views.follow),), (len(views.strong),))
        kept = min(labels.values.shape[1], self.classes)
        expect("pseudo_label", "values", labels.values.shape, (batch[0], kept, *batch[1:]))
        expect("pseudo_label", "classes", labels.classes.shape, labels.values.shape)
        expect("weight", "weights", labels.weight.shape, batch)

    def _diagnose(self, probs: Tensor, labels: PseudoLabels, truth: Tensor) -> Statistics:
        """Summable facts about the pseudo-labels, for the log."""
        valid = labels.valid
        known = valid & (truth != IGNORE)
        return {
            "high_entropy": (valid & (normalized_entropy(probs) > self.stages.weight.high_entropy)).sum(),
            "weight": torch.where(valid, labels.weight, 0).to(count_dtype(valid.device)).sum(),
            "histogram": class_counts(labels, self.classes),
            "seen": valid.sum(),
            "known": known.sum(),
            "right": (known & (labels.classes[:, 0] == truth)).sum(),
        }

    def losses(self, batch: Batch, lesson: Lesson | None, totals: Totals, ramp: float) -> dict[str, Tensor]:
        """This process's shares of the losses of one micro-batch (eq. 4, 8 to 12); shares add up to the global loss.

        Args:
            batch: the images.
            lesson: None in supervised steps.
            totals: of the whole batch.
            ramp: factor in [0, 1] on the weights of the unsupervised and contrastive losses.
        """
        views = lesson.views if lesson else ()
        labeled = len(batch.images)
        prediction = self._predict(self.student, torch.cat([batch.images, *views]))
        losses = {"supervised": self._supervised(prediction.logits[:labeled], batch.masks, totals)}
        # The head takes part in every step, with weight 0 in supervised ones: DDP waits for every parameter.
        unused = 0 if prediction.embeddings is None else prediction.embeddings.sum() * 0
        losses["total"] = losses["supervised"] + unused
        if lesson is None or totals.pixels is None or totals.class_weights is None:
            return losses
        strong = prediction.logits[labeled:].chunk(len(views))
        omega = (self.stages.rebalance.pixels(each, totals.class_weights) for each in lesson.labels)
        parts = [fuzzy_kl(*each) for each in zip(strong, lesson.labels, omega, strict=True)]
        losses["unsupervised"] = sum_of(parts) / totals.pixels
        weighted = self.loss.unsupervised * losses["unsupervised"]
        if prediction.embeddings is not None:
            anchors = self._anchors(batch, lesson, tuple(prediction.embeddings.shape[2:]))
            inputs = (prediction.embeddings, anchors, self.classes)
            contrast = self.stages.call("contrast", self.stages.contrast, *inputs, gives=ContrastLoss)
            self.stages.expect("contrast", "a loss", contrast.loss.shape, ())
            losses["contrastive"] = contrast.loss / totals.micro_batches
            losses["prototype_cosine"] = contrast.prototype_cosine / (totals.micro_batches * world_size())
            weighted = weighted + self.loss.contrastive * losses["contrastive"]
        losses["total"] = losses["total"] + ramp * weighted
        return losses

    def _predict(self, network: Callable[[Tensor], Prediction], images: Tensor) -> Prediction:
        """A network's prediction for images in [0, 1]. Raises PluginError when it breaks its contract."""
        prediction = network(self.normalize(images))
        if not isinstance(prediction, Prediction):
            raise PluginError(f"The network gives a {type(prediction).__name__} where a Prediction is due.")
        expect("network", "logits", prediction.logits.shape, (len(images), self.classes, *images.shape[2:]))
        wanted = self.loss.contrastive > 0 and self.stages.contrast.dim > 0
        if wanted and prediction.embeddings is None:
            raise PluginError(f"The network gives no embeddings, which {self.stages.name('contrast')} needs.")
        return prediction

    def _supervised(self, logits: Tensor, masks: Tensor, totals: Totals) -> Tensor:
        if self.loss.supervised == "cross-entropy":
            return cross_entropy(logits, masks)[0] / totals.labeled
        # Which pixels are hard is only known after the forward: each micro-batch mines its own share of min_kept.
        kept = max(1, self.loss.ohem_min_kept // totals.micro_batches)
        loss, count = ohem(logits, masks, threshold=self.loss.ohem_threshold, min_kept=kept)
        return loss / all_sum(count).clamp(min=1) / totals.micro_batches

    def _anchors(self, batch: Batch, lesson: Lesson, size: tuple[int, ...]) -> Anchors:
        """What is known about each pixel of the embedding map: labels at its size, by nearest neighbor."""
        known = batch.masks != IGNORE
        one = known.float()
        true = Anchors(torch.where(known, batch.masks.long(), 0), one, one, known, torch.ones_like(known))
        guessed = [
            Anchors(each.classes[:, 0], each.confidence, each.weight, each.valid, torch.zeros_like(each.valid))
            for each in lesson.labels
        ]
        joined = (torch.cat(tensors) for tensors in zip(true, *guessed, strict=True))
        return Anchors(*(nearest(tensor, size) for tensor in joined))


def nearest(tensor: Tensor, size: tuple[int, ...]) -> Tensor:
    """`tensor` `(B, *S)` of any dtype at spatial `size`, by the nearest pixel center."""
    for axis, (new, old) in enumerate(zip(size, tensor.shape[1:], strict=True), 1):
        place = (torch.arange(new, device=tensor.device) + 0.5) * (old / new)
        tensor = tensor.index_select(axis, place.long())
    return tensor


def sum_of(tensors: list[Tensor]) -> Tensor:
    """Sum of a non-empty list of tensors."""
    return torch.stack(tensors).sum(0)


def expect(plugin: str, what: str, shape: Sequence[int], due: Sequence[int]) -> None:
    """Refuse what a plugin gives in a wrong shape; costs nothing, since shapes live on the host. Raises PluginError."""
    if tuple(shape) != tuple(due):
        raise PluginError(
            f"Plugin {plugin} gives {what} of shape {tuple(shape)} where {tuple(due)} is due; see docs/plugins.md."
        )


def ema_decay(step: int, decay: float) -> float:
    """Decay of the teacher at a step counted from 0 (eq. 1): `min(decay, 1 - 1 / (step + 1))`."""
    return min(decay, 1 - 1 / (step + 1))


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """`theta_t <- decay theta_t + (1 - decay) theta_s` (eq. 1) for parameters and float buffers; others are copied."""
    pairs = zip((*teacher.parameters(), *teacher.buffers()), (*student.parameters(), *student.buffers()), strict=True)
    averaged: list[tuple[Tensor, Tensor]] = []
    copied: list[tuple[Tensor, Tensor]] = []
    for pair in pairs:
        (averaged if pair[0].is_floating_point() else copied).append(pair)
    torch._foreach_lerp_([t for t, _ in averaged], [s for _, s in averaged], 1 - decay)
    for old, new in copied:
        old.copy_(new)

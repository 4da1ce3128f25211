"""The method: one student, one teacher, five stages, three losses.

A step of the paper reads from top to bottom in two functions. `teach` makes views and pseudo-labels, without gradient.
`losses` shows the student labeled images and strong views in one forward. Between the two, what must be known about the
whole batch (how many pixels, of which classes) is summed over processes. Where the images of a process go through the
student in several micro-batches, `glance` and `survey` find what only a forward of all of them can tell. So neither the
number of processes nor that of micro-batches changes the result.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from farcluss.data.base import IGNORE
from farcluss.errors import PluginError
from farcluss.learning.batches import Batch, Lesson, join_labels
from farcluss.learning.contracts import Stages, expect
from farcluss.learning.dice import dice
from farcluss.learning.losses import divergences, fuzzy_target, hard_pixels, pixel_cross_entropy, true_target
from farcluss.networks.base import Prediction
from farcluss.networks.normalize import Normalize
from farcluss.recipes.model import Loss
from farcluss.stages.base import Anchors, ContrastLoss, FuzzyLabels, PseudoLabels, Views
from farcluss.stages.rebalance import class_counts
from farcluss.stages.weight import normalized_entropy
from farcluss.tensors.distributed import all_sum, count_dtype, world_size
from farcluss.tensors.precision import wide, wide_softmax
from farcluss.tensors.timing import span


class Totals(NamedTuple):
    """What is known about the batch of all processes.

    Attributes:
        labeled: number of labeled pixels that are not ignored.
        pixels: N of eq. 8, valid pixels of the strong views; None in supervised steps.
        class_weights: `(C,)`, omega of eq. 7; None in supervised steps.
        images: number of labeled images; None where no loss asks.
        views: number of images of the strong views; None where no loss asks.
    """

    labeled: Tensor
    pixels: Tensor | None = None
    class_weights: Tensor | None = None
    images: Tensor | None = None
    views: Tensor | None = None


class Glance(NamedTuple):
    """What a forward without gradient shows of a micro-batch; None where no loss asks.

    Attributes:
        pixel_losses: `(B, *S)`, cross-entropy of the labeled images.
        masks: `(B, *S)`, theirs.
        embeddings: `(B, D, *s)`.
        anchors: of the embeddings.
    """

    pixel_losses: Tensor | None
    masks: Tensor
    embeddings: Tensor | None
    anchors: Anchors | None


class Survey(NamedTuple):
    """What the losses of a micro-batch take from the glances at all of them; None where no loss asks.

    Attributes:
        masks: `(B, *S)`, the micro-batch's masks, `IGNORE` at pixels that OHEM leaves out.
        hard: number of the pixels that it keeps, of all processes.
        contrast: value of the contrast stage, in equal parts for each micro-batch.
        slope: `(B, D, *s)`, its gradient with respect to the micro-batch's embeddings.
    """

    masks: Tensor | None = None
    hard: Tensor | None = None
    contrast: ContrastLoss | None = None
    slope: Tensor | None = None


Statistics = dict[str, Tensor]


class Learner:
    """Composes student, teacher and stages into a loss. Knows nothing of optimizers, devices or files."""

    def __init__(
        self,
        student: Any,
        teacher: nn.Module,
        stages: Stages,
        normalize: Normalize,
        loss: Loss,
        classes: int,
        autocast: Callable[[], Any] = nullcontext,
        compiled: Callable[[Any], Any] = lambda function: function,
    ) -> None:
        """The student may be wrapped (DDP); it is only ever called as a whole.

        `autocast` is for networks alone, `compiled` makes networks and losses faster.
        """
        self.student, self.teacher, self.stages = student, teacher, stages
        self.normalize, self.loss, self.classes, self.autocast = normalize, loss, classes, autocast
        self._compiled = {function: compiled(function) for function in (student, teacher, divergences, dice)}

    @torch.no_grad()
    def teach(self, batch: Batch, micro_batches: int = 1) -> tuple[Lesson | None, Statistics]:
        """Views of the unlabeled images and the teacher's labels for them (eq. 2 to 6).

        Args:
            batch: all images of this process.
            micro_batches: into how many the teacher's forward is split.

        Returns:
            The lesson (None without unlabeled images), and statistics to be summed over processes before `totals` sees
            them.
        """
        statistics = {"labeled": (batch.masks != IGNORE).sum()}
        if self.loss.supervised == "dice-cross-entropy":
            statistics["images"] = statistics["labeled"].new_full((), len(batch.images))
        if batch.unlabeled is None or batch.valid is None:
            return None, statistics
        stages, call = self.stages, self.stages.call
        views = call("augment", stages.augment, batch.unlabeled, batch.valid, gives=Views)
        self._check_views(views, batch.unlabeled.shape)
        truth = [None] * micro_batches if batch.truth is None else batch.truth.chunk(micro_batches)
        parts = zip(views.weak.chunk(micro_batches), batch.valid.chunk(micro_batches), truth, strict=True)
        labeled = [self._label(*part) for part in parts]
        weak = join_labels([labels for labels, _ in labeled])
        with span("augment"):
            labels = tuple(follow(weak) for follow in views.follow)
        statistics |= {
            "rebalance": sum_of(
                [call("rebalance", stages.rebalance.statistics, each, self.classes, gives=Tensor) for each in labels]
            ),
            "pixels": sum_of([each.valid.sum() for each in labels]),
        }
        if self.loss.unsupervised * self.loss.unsupervised_dice > 0:
            statistics["views"] = statistics["pixels"].new_full((), sum(len(each.valid) for each in labels))
        statistics |= {name: sum_of([facts[name] for _, facts in labeled]) for name in labeled[0][1]}
        return Lesson(views.strong, labels), statistics

    def _label(self, weak: Tensor, valid: Tensor, truth: Tensor | None) -> tuple[PseudoLabels, Statistics]:
        """The teacher's labels of some weak views, and facts about them where the truth is known."""
        stages, call = self.stages, self.stages.call
        probs = wide_softmax(self._predict(self.teacher, weak, "teacher").logits)
        fuzzy = call("pseudo_label", stages.pseudo_label, probs, gives=FuzzyLabels)
        weight = call("weight", stages.weight, probs, gives=Tensor)
        labels = PseudoLabels(fuzzy.values, fuzzy.classes, weight, probs.amax(1), valid)
        self._check_labels(labels)
        return labels, {} if truth is None else self._diagnose(probs, labels, truth)

    def totals(self, statistics: Statistics) -> Totals:
        """N and the class weights from statistics summed over the whole batch (eq. 7)."""
        labeled, images = statistics["labeled"].clamp(min=1), statistics.get("images")
        if "pixels" not in statistics:
            return Totals(labeled, images=images)
        weights = self.stages.call("rebalance", self.stages.rebalance, statistics["rebalance"], gives=Tensor)
        self.stages.expect("rebalance", "class weights", weights.shape, (self.classes,))
        return Totals(labeled, statistics["pixels"].clamp(min=1), weights, images, statistics.get("views"))

    def _check_views(self, views: Views, shape: Sequence[int]) -> None:
        """Refuse views of wrong shapes. Raises PluginError."""
        expect = self.stages.expect
        for view in (views.weak, *views.strong):
            expect("augment", "a view", view.shape, shape)
        expect("augment", "follow functions", (len(views.follow),), (len(views.strong),))

    def _check_labels(self, labels: PseudoLabels) -> None:
        """Refuse labels of wrong shapes. Raises PluginError."""
        expect, batch = self.stages.expect, labels.valid.shape
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

    @torch.no_grad()
    def glance(self, batch: Batch, lesson: Lesson | None) -> Glance:
        """A forward of a micro-batch that is only looked at, see `survey`."""
        prediction = self._see(batch, lesson, "survey")
        mines, labeled = self.loss.supervised == "ohem", prediction.logits[: len(batch.images)]
        pixel_losses = pixel_cross_entropy(labeled, batch.masks) if mines else None
        if lesson is None or prediction.embeddings is None:
            return Glance(pixel_losses, batch.masks, None, None)
        anchors = self._anchors(batch, lesson, tuple(prediction.embeddings.shape[2:]))
        return Glance(pixel_losses, batch.masks, wide(prediction.embeddings), anchors)

    def survey(self, glances: list[Glance]) -> list[Survey]:
        """What each micro-batch's losses need to know of the others: which pixels are hard, where prototypes pull.

        The contrast stage sees the embeddings of all micro-batches at once; its gradient with respect to them is handed
        to the second forward, in which each micro-batch passes its part of it on.
        """
        micro_batches = len(glances)
        masks: Sequence[Tensor | None] = [None] * micro_batches
        hard = None
        pixel_losses = [glance.pixel_losses for glance in glances if glance.pixel_losses is not None]
        if pixel_losses:
            joined = torch.cat([glance.masks for glance in glances])
            kept = self._hard(torch.cat(pixel_losses), joined)
            hard = all_sum(kept.sum()).clamp(min=1)
            masks = torch.split(torch.where(kept, joined, IGNORE), [len(glance.masks) for glance in glances])
        embeddings = [glance.embeddings for glance in glances if glance.embeddings is not None]
        if not embeddings:
            return [Survey(each, hard) for each in masks]
        leaf = torch.cat(embeddings).requires_grad_()
        anchors = zip(*(glance.anchors for glance in glances if glance.anchors is not None), strict=True)
        contrast = self._contrast(leaf, Anchors(*(torch.cat(tensors) for tensors in anchors)))
        slope = torch.zeros_like(leaf)
        if contrast.loss.requires_grad:
            (slope,) = torch.autograd.grad(contrast.loss, leaf, allow_unused=True, materialize_grads=True)
        share = ContrastLoss(contrast.loss.detach() / micro_batches, contrast.prototype_cosine / micro_batches)
        parts = zip(masks, torch.split(slope, [len(each) for each in embeddings]), strict=True)
        return [Survey(each, hard, share, part) for each, part in parts]

    def losses(
        self, batch: Batch, lesson: Lesson | None, totals: Totals, ramp: float, survey: Survey | None = None
    ) -> dict[str, Tensor]:
        """This process's shares of the losses of one micro-batch (eq. 4, 8 to 12); shares add up to the global loss.

        Args:
            batch: the images.
            lesson: None in supervised steps.
            totals: of the whole batch.
            ramp: factor in [0, 1] on the weights of the unsupervised and contrastive losses.
            survey: None where the batch is in one micro-batch.
        """
        prediction = self._see(batch, lesson, "student")
        with span("losses"):
            losses = self._divergences(prediction.logits, batch, lesson, totals, survey)
            losses |= self._dice(prediction.logits, batch, lesson, totals, losses["supervised"])
        # The head takes part in every step, with weight 0 in supervised ones: DDP waits for every parameter.
        unused = 0 if prediction.embeddings is None else prediction.embeddings.sum() * 0
        losses["total"] = losses["supervised"] + unused
        if lesson is None:
            return losses
        weighted = self.loss.unsupervised * losses["unsupervised"]
        if "unsupervised_dice" in losses:
            weighted = weighted + self.loss.unsupervised * self.loss.unsupervised_dice * losses["unsupervised_dice"]
        if prediction.embeddings is not None and (lesson.views or survey):
            contrast = self._pull(prediction.embeddings, batch, lesson, survey)
            losses["contrastive"] = contrast.loss
            losses["prototype_cosine"] = contrast.prototype_cosine / world_size()
            weighted = weighted + self.loss.contrastive * losses["contrastive"]
        losses["total"] = losses["total"] + ramp * weighted
        return losses

    def _divergences(
        self, logits: Tensor, batch: Batch, lesson: Lesson | None, totals: Totals, survey: Survey | None
    ) -> dict[str, Tensor]:
        """The supervised loss and, in steps that have one, the unsupervised loss."""
        masks, count = self._counted(logits[: len(batch.images)], batch.masks, totals, survey)
        targets = [true_target(masks)]
        if lesson is not None and totals.class_weights is not None:
            omega = (self.stages.rebalance.pixels(each, totals.class_weights) for each in lesson.labels)
            targets += map(fuzzy_target, lesson.labels, omega)
        sums = self._compiled[divergences](logits, targets)
        unsupervised = {} if totals.pixels is None else {"unsupervised": sums[1:].sum() / totals.pixels}
        return {"supervised": sums[0] / count, **unsupervised}

    def _dice(
        self, logits: Tensor, batch: Batch, lesson: Lesson | None, totals: Totals, supervised: Tensor
    ) -> dict[str, Tensor]:
        """The Dice losses that the recipe asks for; that of labeled images is added to the `supervised` loss."""
        labeled, views = logits[: len(batch.images)], logits[len(batch.images) :]
        losses = {}
        if totals.images is not None:
            losses["supervised"] = (
                supervised + self._compiled[dice](labeled, [true_target(batch.masks)])[0] / totals.images
            )
        if lesson is not None and totals.views is not None:
            targets = [fuzzy_target(each, torch.ones_like(each.weight)) for each in lesson.labels]
            losses["unsupervised_dice"] = self._compiled[dice](views, targets).sum() / totals.views
        return losses

    def _pull(self, embeddings: Tensor, batch: Batch, lesson: Lesson, survey: Survey | None) -> ContrastLoss:
        """The contrast stage on a micro-batch: by itself, or with the value and the gradient of the survey."""
        if survey is None or survey.contrast is None or survey.slope is None:
            return self._contrast(embeddings, self._anchors(batch, lesson, tuple(embeddings.shape[2:])))
        passed = (wide(embeddings) * survey.slope).sum()
        return survey.contrast._replace(loss=survey.contrast.loss + passed - passed.detach())

    def _contrast(self, embeddings: Tensor, anchors: Anchors) -> ContrastLoss:
        inputs = (wide(embeddings), anchors, self.classes)
        contrast = self.stages.call("contrast", self.stages.contrast, *inputs, gives=ContrastLoss)
        self.stages.expect("contrast", "a loss", contrast.loss.shape, ())
        return contrast

    def _see(self, batch: Batch, lesson: Lesson | None, part: str) -> Prediction:
        """The student's prediction for labeled images and strong views, in one forward."""
        return self._predict(self.student, torch.cat([batch.images, *(lesson.views if lesson else ())]), part)

    def _predict(self, network: nn.Module, images: Tensor, part: str) -> Prediction:
        """A network's prediction for images, timed as `part`. Raises PluginError: it breaks its contract."""
        with span(part), self.autocast():
            prediction = self._compiled[network](self.normalize(images))
        if not isinstance(prediction, Prediction):
            raise PluginError(f"The network gives a {type(prediction).__name__} where a Prediction is due.")
        expect("network", "logits", prediction.logits.shape, (len(images), self.classes, *images.shape[2:]))
        wanted = self.loss.contrastive > 0 and self.stages.contrast.dim > 0
        if wanted and prediction.embeddings is None:
            raise PluginError(f"The network gives no embeddings, which {self.stages.name('contrast')} needs.")
        return prediction

    def _counted(self, logits: Tensor, masks: Tensor, totals: Totals, survey: Survey | None) -> tuple[Tensor, Tensor]:
        """The masks of the pixels that the supervised loss counts, and their number over all processes."""
        if self.loss.supervised != "ohem":
            return masks, totals.labeled
        if survey is not None and survey.masks is not None and survey.hard is not None:
            return survey.masks, survey.hard
        kept = self._hard(pixel_cross_entropy(logits, masks), masks)
        return torch.where(kept, masks, IGNORE), all_sum(kept.sum()).clamp(min=1)

    def _hard(self, losses: Tensor, masks: Tensor) -> Tensor:
        return hard_pixels(losses, masks, threshold=self.loss.ohem_threshold, min_kept=self.loss.ohem_min_kept)

    def _anchors(self, batch: Batch, lesson: Lesson, size: tuple[int, ...]) -> Anchors:
        """What is known about each pixel of the embedding map: labels at its size, by nearest neighbor."""
        masks = nearest(batch.masks, size)
        known = masks != IGNORE
        one = known.float()
        true = Anchors(torch.where(known, masks, 0).long(), one, one, known, torch.ones_like(known))
        guessed = []
        for labels in lesson.labels:
            facts = labels.classes[:, 0], labels.confidence, labels.weight, labels.valid
            classes, confidence, weight, valid = (nearest(fact, size) for fact in facts)
            guessed.append(Anchors(classes, confidence, weight, valid, torch.zeros_like(valid)))
        return Anchors(*(torch.cat(tensors) for tensors in zip(true, *guessed, strict=True)))


def nearest(tensor: Tensor, size: tuple[int, ...]) -> Tensor:
    """`tensor` `(B, *S)` of any dtype at spatial `size`, by the nearest pixel center."""
    for axis, (new, old) in enumerate(zip(size, tensor.shape[1:], strict=True), 1):
        place = (torch.arange(new, device=tensor.device) + 0.5) * (old / new)
        tensor = tensor.index_select(axis, place.long())
    return tensor


def sum_of(tensors: list[Tensor]) -> Tensor:
    """Sum of a non-empty list of tensors."""
    return torch.stack(tensors).sum(0)

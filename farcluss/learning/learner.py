"""The method: one student, one teacher, stages, three losses.

A step of the paper is two functions. `pseudo_label` makes the views with the teacher's labels, without gradient.
`losses` sends labeled images and strong views through the student in one forward. In between, statistics of the whole
batch (number of pixels, class counts) are summed over processes, and `totals` gives them to the stages.

OHEM and the contrastive loss depend on all images of a batch. With several micro-batches, `first_pass` runs each
without gradient, and `whole_batch` computes from the results what `losses` needs. So neither the number of processes
nor that of micro-batches changes the result.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn

from farcluss.data.base import IGNORE
from farcluss.errors import PluginError, RecipeError, counted
from farcluss.learning.anchors import anchors_of
from farcluss.learning.batches import (
    Batch,
    FirstPass,
    Totals,
    Views,
    WholeBatch,
    diagnostics,
    join_labels,
    perturbation_of,
    sum_of,
)
from farcluss.learning.contracts import Stages, expect, in_bands
from farcluss.learning.dice import dice
from farcluss.learning.encoding import Encoding, joined
from farcluss.learning.losses import divergences, fuzzy_target, hard_pixels, pixel_cross_entropy, true_target
from farcluss.networks.base import CoarsePrediction, Perturbation, Prediction, evaluating, points_of
from farcluss.networks.normalize import Normalize
from farcluss.recipes.training import Loss
from farcluss.stages.base import Anchors, ContrastLoss, FuzzyLabels, PseudoLabels, Scene, View
from farcluss.tensors.distributed import all_sum, sum_table, world_size
from farcluss.tensors.entropy import normalized_entropy
from farcluss.tensors.precision import wide, wide_softmax
from farcluss.tensors.timing import span
from farcluss.tensors.upsampling import upsampled

Statistics = dict[str, Tensor]
WEIGHTS = ("weight", "rebalance")
"""The kinds of stages that weigh pixels."""
ADAPTIVE = ("pseudo_label", *WEIGHTS)
"""The kinds of stages that have statistics."""
LABELED = "labeled images for "
"""Begins the names of statistics among losses."""


class Learner:
    """Combines student, teacher and stages into a loss, independent of optimizers, devices and files."""

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
        """The student may be wrapped (DDP).

        `autocast` applies to networks only; `compiled` (`torch.compile`) to networks and losses.
        """
        self.student, self.teacher, self.stages = student, teacher, stages
        self.normalize, self.loss, self.classes, self.autocast = normalize, loss, classes, autocast
        self._compiled = {function: compiled(function) for function in (student, teacher, divergences, dice)}
        self._encoding = Encoding(teacher, compiled)
        self._coarse = in_bands(loss, classes, teacher)

    @torch.no_grad()
    def pseudo_label(self, batch: Batch, micro_batches: int = 1) -> tuple[Views | None, Statistics]:
        """Strong views of the unlabeled images, with the teacher's labels (eq. 2, 3).

        Args:
            batch: all images of this process.
            micro_batches: number of micro-batches of the teacher's forward.

        Returns:
            The strong views (None without unlabeled images), and statistics, to be summed over processes and passed to
            `totals`.
        """
        self._encoding.forget()
        statistics = {"labeled": (batch.masks != IGNORE).sum()}
        if self.loss.supervised == "dice-cross-entropy":
            statistics["images"] = statistics["labeled"].new_full((), len(batch.images))
        if batch.unlabeled is None:
            return None, statistics
        scene, diagnostics = self.scene(batch, micro_batches)
        views = self.strong_views(scene)
        labels = [view.labels for view in views]
        for kind in WEIGHTS:
            count = getattr(self.stages, kind).statistics
            found = [self.stages.call(kind, count, each, self.classes, returns=Tensor) for each in labels]
            statistics[kind] = sum_of(found)
        statistics["valid"] = torch.stack([each.valid.sum() for each in labels])
        if self.loss.divisor == "all":
            statistics["all"] = torch.full_like(statistics["valid"], labels[0].valid.numel())
        if self.loss.unsupervised * self.loss.unsupervised_dice > 0:
            statistics["views"] = statistics["labeled"].new_full((), sum(len(each.valid) for each in labels))
        return views, statistics | diagnostics

    @torch.no_grad()
    def scene(self, batch: Batch, micro_batches: int = 1) -> tuple[Scene, Statistics]:
        """The weak views of a batch with unlabeled images, with the teacher's labels, beside its labeled images.

        Returns:
            The scene, and summable statistics of the labels; diagnostics, too, if the batch has the true masks.
        """
        assert batch.unlabeled is not None and batch.valid is not None
        stages, known = self.stages, batch.masks != IGNORE
        images = stages.call("augment", stages.augment.weak, batch.unlabeled, batch.valid, returns=Tensor)
        stages.expect("augment", "a weak view", images.shape, batch.unlabeled.shape)
        parts = list(zip(images.chunk(micro_batches), batch.valid.chunk(micro_batches), strict=True))
        truth = [None] * micro_batches if batch.truth is None else batch.truth.chunk(micro_batches)
        labeled = [self._teacher_labels(*part, each) for part, each in zip(parts, truth, strict=True)]
        weak = View(images, join_labels([labels for labels, _ in labeled]))
        student = self._student_labels(parts) if stages.augment.asks_student else None
        statistics = {name: sum_of([found[name] for _, found in labeled]) for name in labeled[0][1]}
        return Scene(weak, batch.images, batch.masks, known, self.classes, student), statistics

    def _teacher_labels(self, weak: Tensor, valid: Tensor, truth: Tensor | None) -> tuple[PseudoLabels, Statistics]:
        """The teacher's labels of some weak views, and statistics; diagnostics, too, if the true masks are given."""
        labels, probs = self._labels(self.teacher, weak, valid, "teacher")
        stage = self.stages.pseudo_label
        statistics = {"pseudo_label": self.stages.call("pseudo_label", stage.statistics, probs, valid, returns=Tensor)}
        found = {} if truth is None else diagnostics(labels, truth, self.stages.weight.high_entropy, self.classes)
        return labels, statistics | found

    def _student_labels(self, parts: list[tuple[Tensor, Tensor]]) -> PseudoLabels:
        """The student's own labels of weak views, in evaluation mode.

        Its wrapper (DDP) is left out: it would exchange buffers, but not all processes draw a picture.
        """
        student = getattr(self.student, "module", self.student)
        with evaluating(student):
            return join_labels([self._labels(student, *part, "student")[0] for part in parts])

    def _labels(self, network: nn.Module, weak: Tensor, valid: Tensor, part: str) -> tuple[PseudoLabels, Tensor]:
        """A network's labels of some weak views, timed as `part`, and its probabilities before they are aligned."""
        call, stage = self.stages.call, self.stages.pseudo_label
        probs = wide_softmax(self._forward(network, [weak], part).logits)
        aligned = call("pseudo_label", stage.align, probs, returns=Tensor)
        self.stages.expect("pseudo_label", "probabilities", aligned.shape, probs.shape)
        fuzzy = call("pseudo_label", stage, aligned, returns=FuzzyLabels)
        labels = PseudoLabels(fuzzy.values, fuzzy.classes, aligned.amax(1), normalized_entropy(aligned), valid)
        kept = min(labels.values.shape[1], self.classes)
        self.stages.expect("pseudo_label", "values", labels.values.shape, (len(valid), kept, *valid.shape[1:]))
        self.stages.expect("pseudo_label", "classes", labels.classes.shape, labels.values.shape)
        return labels, probs

    @torch.no_grad()
    def strong_views(self, scene: Scene) -> Views:
        """The views that the student sees, mixed, and what changes their features. Raises PluginError, RecipeError."""
        stages, shares = self.stages, self.loss.view_shares
        strong: Views = stages.call("augment", stages.augment.strong, scene, returns=tuple)
        stages.expect_views("augment", strong, scene.weak)
        views = tuple(stages.call("mix", stages.mix, view, scene, returns=View) for view in strong)
        stages.expect_views("mix", views, scene.weak)
        channels = points_of(self.teacher).get(stages.perturb.point, ())
        views = stages.call("perturb", stages.perturb.draw, views, scene, channels, returns=tuple)
        stages.expect_views("perturb", views, scene.weak)
        if shares is not None and len(shares) != len(views):
            more = len(views) - len(strong)
            raise RecipeError(
                f"loss.view_shares has {counted(len(shares), 'number')}, but stages.augment makes "
                f"{counted(len(strong), 'view')} and stages.perturb {more} more.\n"
                f"Set stages.augment.views = {max(1, len(shares) - more)}, or give one number for each view."
            )
        return views

    @torch.no_grad()
    def _of_labeled(self, prediction: CoarsePrediction, batch: Batch) -> Statistics:
        """Statistics of the student's logits of labeled images, by the kind of stage that wants some.

        Image by image: all logits in float32 would add to the peak of the step's memory.
        """
        found: dict[str, list[Tensor]] = {}
        images = torch.split(prediction.logits.detach(), 1)
        for masks, image in zip(torch.split(batch.masks, 1), images, strict=False):
            pixels = upsampled(wide(image), prediction.upsampling)
            for kind in ADAPTIVE:
                counts = getattr(self.stages, kind).labeled_statistics(pixels, masks, masks != IGNORE)
                if counts is not None:
                    found.setdefault(f"{LABELED}{kind}", []).append(counts)
        return {name: sum_of(counts) for name, counts in found.items()}

    @torch.no_grad()
    def absorb_labeled(self, losses: dict[str, Tensor]) -> None:
        """End a step: take the statistics of labeled images out of the losses of all micro-batches; stages get sums."""
        self._encoding.forget()
        found = {kind: losses.pop(f"{LABELED}{kind}") for kind in ADAPTIVE if f"{LABELED}{kind}" in losses}
        if found:
            for kind, summed in sum_table(found).items():
                self.stages.call(kind, getattr(self.stages, kind).absorb_labeled, summed, returns=NoneType)

    @torch.no_grad()
    def totals(self, statistics: Statistics, views: Views | None) -> Totals:
        """What the losses need of the whole batch, from its summed statistics (eq. 7). Stages update their state."""
        labeled, images = statistics["labeled"].clamp(min=1), statistics.get("images")
        if views is None:
            return Totals(labeled, images=images)
        for kind in ADAPTIVE:
            self.stages.call(kind, getattr(self.stages, kind).absorb, statistics[kind], returns=NoneType)
        valid = statistics["valid"]
        own = statistics["weight"], statistics["rebalance"]
        totals = Totals(labeled, statistics.get("all", valid), valid, *own, images, statistics.get("views"))
        if self.loss.divisor == "kept":
            kept = [((self._pixel_weight(view.labels, totals) > 0) & view.labels.valid).sum() for view in views]
            totals = totals._replace(pixels=all_sum(torch.stack(kept)))
        return totals

    def _weigh(self, kind: str, labels: PseudoLabels, summed: Tensor | None) -> Tensor:
        """The factor of a weighing stage on each pixel `(B, *S)`, without gradient."""
        stage = getattr(self.stages, kind)
        weight = self.stages.call(kind, stage.pixels, labels, summed, returns=Tensor).detach()
        self.stages.expect(kind, "weights", weight.shape, labels.valid.shape)
        return weight

    def _pixel_weight(self, labels: PseudoLabels, totals: Totals) -> Tensor:
        """`w_i omega(i)` of eq. 8, `(B, *S)`."""
        return self._weigh("weight", labels, totals.weight) * self._weigh("rebalance", labels, totals.rebalance)

    @torch.no_grad()
    def first_pass(self, batch: Batch, views: Views | None, totals: Totals) -> FirstPass:
        """A forward of a micro-batch without gradient, for `whole_batch`."""
        prediction = self._forward_student(batch, views, "first_pass")
        ohem, labeled = self.loss.supervised == "ohem", prediction.logits[: len(batch.images)]
        pixel_losses = pixel_cross_entropy(labeled, batch.masks, prediction.upsampling) if ohem else None
        if views is None or prediction.embeddings is None:
            return FirstPass(pixel_losses, batch.masks, None, None)
        anchors = self._anchors(batch, views, totals, tuple(prediction.embeddings.shape[2:]))
        return FirstPass(pixel_losses, batch.masks, wide(prediction.embeddings), anchors)

    def whole_batch(self, passes: list[FirstPass]) -> list[WholeBatch]:
        """What each micro-batch's losses need from the others: hard pixels, and the contrastive loss's gradient.

        The contrast stage gets the embeddings of all micro-batches at once. Its gradient with respect to them is split
        and applied in the second forward, micro-batch by micro-batch.
        """
        micro_batches = len(passes)
        masks: Sequence[Tensor | None] = [None] * micro_batches
        hard = None
        pixel_losses = [each.pixel_losses for each in passes if each.pixel_losses is not None]
        if pixel_losses:
            joined = torch.cat([each.masks for each in passes])
            kept = self._hard(torch.cat(pixel_losses), joined)
            hard = all_sum(kept.sum()).clamp(min=1)
            masks = torch.split(torch.where(kept, joined, IGNORE), [len(each.masks) for each in passes])
        embeddings = [each.embeddings for each in passes if each.embeddings is not None]
        if not embeddings:
            return [WholeBatch(each, hard) for each in masks]
        leaf = torch.cat(embeddings).requires_grad_()
        anchors = zip(*(each.anchors for each in passes if each.anchors is not None), strict=True)
        contrast = self._contrast(leaf, Anchors(*(torch.cat(tensors) for tensors in anchors)))
        gradient = torch.zeros_like(leaf)
        if contrast.loss.requires_grad:
            (gradient,) = torch.autograd.grad(contrast.loss, leaf, allow_unused=True, materialize_grads=True)
        share = ContrastLoss(contrast.loss.detach() / micro_batches, contrast.prototype_cosine / micro_batches)
        parts = zip(masks, torch.split(gradient, [len(each) for each in embeddings]), strict=True)
        return [WholeBatch(each, hard, share, part) for each, part in parts]

    def losses(
        self, batch: Batch, views: Views | None, totals: Totals, ramp: float, whole: WholeBatch | None = None
    ) -> dict[str, Tensor]:
        """This process's shares of the losses of one micro-batch (eq. 4, 8 to 12); shares add up to the global loss.

        Args:
            batch: the images.
            views: strong views; None in supervised steps.
            totals: of the whole batch.
            ramp: factor in [0, 1] on the weights of the unsupervised and contrastive losses.
            whole: None where the batch is in one micro-batch.
        """
        prediction = self._forward_student(batch, views, "student")
        with span("losses"):
            losses = self._divergences(prediction, batch, views, totals, whole)
            losses |= self._dice(prediction.logits, batch, views, totals, losses["supervised"])
        # The embedding head takes part in every step, with weight 0 in supervised ones: DDP waits for every parameter.
        unused = 0 if prediction.embeddings is None else prediction.embeddings.sum() * 0
        losses["total"] = losses["supervised"] + unused
        if views is None:
            return losses
        losses |= self._of_labeled(prediction, batch)
        weighted = self.loss.unsupervised * losses["unsupervised"]
        if "unsupervised_dice" in losses:
            weighted = weighted + self.loss.unsupervised * self.loss.unsupervised_dice * losses["unsupervised_dice"]
        if prediction.embeddings is not None and (views or whole):
            contrast = self._contrast_term(prediction.embeddings, batch, views, totals, whole)
            losses["contrastive"] = contrast.loss
            losses["prototype_cosine"] = contrast.prototype_cosine / world_size()
            weighted = weighted + self.loss.contrastive * losses["contrastive"]
        losses["total"] = losses["total"] + ramp * weighted
        return losses

    def _divergences(
        self, prediction: CoarsePrediction, batch: Batch, views: Views | None, totals: Totals, whole: WholeBatch | None
    ) -> dict[str, Tensor]:
        """The supervised loss and, in steps that have one, the unsupervised loss."""
        masks, count = self._supervised_masks(prediction, batch.masks, totals, whole)
        targets = [true_target(masks)]
        for view in views or ():
            weight = self._pixel_weight(view.labels, totals)
            if view.share is not None:
                weight = weight * view.share.view(-1, *[1] * (weight.dim() - 1))
            targets.append(fuzzy_target(view.labels, weight))
        kinds, how = ("kl", *(self.loss.divergence,) * len(targets[1:])), prediction.upsampling
        # Bands are not compiled: that would put all of them into one graph.
        summed = divergences if how else self._compiled[divergences]
        sums = summed(prediction.logits, targets, kinds, how)
        losses = {"supervised": sums[0] / count}
        if totals.pixels is not None:
            losses["unsupervised"] = self._unsupervised(sums[1:], totals.pixels)
        if views and batch.truth is not None and totals.valid is not None:  # for the log
            labels = [view.labels for view in views]
            sums = [(self._weigh("weight", each, totals.weight) * each.valid).sum() for each in labels]
            losses["mean_weight"] = sum_of(sums) / totals.valid.sum().clamp(min=1)
        return losses

    def _unsupervised(self, sums: Tensor, pixels: Tensor) -> Tensor:
        """The unsupervised loss from the sum `(V,)` of each view, or from none where this part has no views."""
        if not len(sums):
            return sums.sum()
        if self.loss.view_shares is None:
            return sums.sum() / pixels.sum().clamp(min=1)
        means = sums / pixels.clamp(min=1)  # a tensor of the shares would wait for the device
        return sum_of([share * mean for share, mean in zip(self.loss.view_shares, means, strict=True)])

    def _dice(
        self, logits: Tensor, batch: Batch, views: Views | None, totals: Totals, supervised: Tensor
    ) -> dict[str, Tensor]:
        """The Dice losses of the recipe; that of labeled images is added to the `supervised` loss."""
        labeled, strong = logits[: len(batch.images)], logits[len(batch.images) :]
        losses = {}
        if totals.images is not None:
            losses["supervised"] = (
                supervised + self._compiled[dice](labeled, [true_target(batch.masks)])[0] / totals.images
            )
        if views is not None and totals.views is not None:
            targets = [fuzzy_target(view.labels, self._weigh("weight", view.labels, totals.weight)) for view in views]
            shares = [view.share for view in views]
            losses["unsupervised_dice"] = self._compiled[dice](strong, targets, shares).sum() / totals.views
        return losses

    def _contrast_term(
        self, embeddings: Tensor, batch: Batch, views: Views, totals: Totals, whole: WholeBatch | None
    ) -> ContrastLoss:
        """The contrastive loss of the whole batch, or a micro-batch's share of it with the gradient of the whole."""
        if whole is None or whole.contrast is None or whole.gradient is None:
            return self._contrast(embeddings, self._anchors(batch, views, totals, tuple(embeddings.shape[2:])))
        passed = (wide(embeddings) * whole.gradient).sum()
        return whole.contrast._replace(loss=whole.contrast.loss + passed - passed.detach())

    def _contrast(self, embeddings: Tensor, anchors: Anchors) -> ContrastLoss:
        inputs = (wide(embeddings), anchors, self.classes)
        contrast = self.stages.call("contrast", self.stages.contrast, *inputs, returns=ContrastLoss)
        self.stages.expect("contrast", "a loss", contrast.loss.shape, ())
        return contrast

    def _forward_student(self, batch: Batch, views: Views | None, part: str) -> CoarsePrediction:
        """The student's prediction for labeled images and strong views, in one forward, timed as `part`."""
        groups = [batch.images, *(view.images for view in views or ())]
        perturbation = perturbation_of(self.stages.perturb, batch, views)
        return self._forward(self.student, groups, part, perturbation, self._coarse)

    def _forward(
        self,
        network: nn.Module,
        groups: Sequence[Tensor],
        part: str,
        perturbation: Perturbation | None = None,
        coarse: bool = False,
    ) -> CoarsePrediction:
        """A network's prediction for images, timed as `part`. Raises PluginError when it violates its contract."""
        images = joined(groups)
        with span(part), self.autocast():
            maps = self._encoding.maps(groups, self.normalize)
            further = {"perturbation": perturbation, "maps": maps, "coarse": coarse or None}
            given = {name: value for name, value in further.items() if value is not None}  # few networks take them
            prediction = self._compiled.get(network, network)(self.normalize(images), **given)
        if isinstance(prediction, Prediction):
            prediction = CoarsePrediction(*prediction, None)
        if not isinstance(prediction, CoarsePrediction):
            raise PluginError(f"The network returns a {type(prediction).__name__}, not a Prediction.")
        how, found = prediction.upsampling, prediction.logits.shape
        size = (*found[:2], *how.size) if how else found
        expect("network", "logits", size, (len(images), self.classes, *images.shape[2:]))
        wanted = self.loss.contrastive > 0 and self.stages.contrast.dim > 0
        if wanted and prediction.embeddings is None:
            raise PluginError(f"The network returns no embeddings, which {self.stages.name('contrast')} needs.")
        return prediction

    def _supervised_masks(
        self, prediction: CoarsePrediction, masks: Tensor, totals: Totals, whole: WholeBatch | None
    ) -> tuple[Tensor, Tensor]:
        """The masks for the supervised loss, and the number of their pixels over all processes."""
        if self.loss.supervised != "ohem":
            return masks, totals.labeled
        if whole is not None and whole.masks is not None and whole.hard is not None:
            return whole.masks, whole.hard
        labeled = prediction.logits[: len(masks)]
        kept = self._hard(pixel_cross_entropy(labeled, masks, prediction.upsampling), masks)
        return torch.where(kept, masks, IGNORE), all_sum(kept.sum()).clamp(min=1)

    def _hard(self, losses: Tensor, masks: Tensor) -> Tensor:
        least = self.loss.ohem_min_kept
        if isinstance(least, int):
            least *= len(masks) * world_size()
        return hard_pixels(losses, masks, threshold=self.loss.ohem_threshold, min_kept=least)

    def _anchors(self, batch: Batch, views: Views, totals: Totals, size: tuple[int, ...]) -> Anchors:
        labels = [view.labels for view in views]
        weights = [self._weigh("weight", each, totals.weight) for each in labels]
        return anchors_of(batch.masks, labels, weights, size)

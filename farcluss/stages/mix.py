"""How the images of a strong view are mixed: the kinds of `stages.mix`."""

from typing import Literal

import torch
from torch import Tensor

from farcluss.plugins.options import Positive, PositiveInt, PositiveRange, Share, ShareRange
from farcluss.stages.base import Mix, PseudoLabels, Scene, View, true_labels
from farcluss.stages.mixing import Boxes, mix, partners
from farcluss.tensors.draws import common_draws, rows


class NoMix(Mix):
    """Images are not mixed.

    Shape:
        views `(B, Cin, *S)` stay as they are.
    """

    def forward(self, view: View, scene: Scene) -> View:
        """The same view."""
        return view


class CutMix(Mix):
    """CutMix: a box of each image is filled from another image of the batch (Yun et al. 2019; French et al. 2020).

    Shape:
        views `(B, Cin, *S)` with any number of axes.

    Args:
        p: probability that an image gets a box.
        law: how boxes are drawn, see `farcluss.stages.mixing.Boxes`.
        area: range of the share of the image that is replaced; of laws log-uniform and uniform.
        aspect: range of the aspect ratio, the box's first side over each other one; of laws log-uniform and uniform.
        beta: parameters of the Beta distribution of law beta.
        boxes: number of boxes; of several, pixels in an odd number of them are replaced.
        partner: previous: the image before in the batch; reverse: the batch backwards; random: a shift drawn per batch.
    """

    def __init__(
        self,
        *,
        p: Share = 0.5,
        law: Literal["log-uniform", "uniform", "half", "beta"] = "log-uniform",
        area: ShareRange = (0.02, 0.4),
        aspect: PositiveRange = (0.3, 3.3),
        beta: tuple[Positive, Positive] = (1.0, 1.0),
        boxes: PositiveInt = 1,
        partner: Literal["previous", "reverse", "random"] = "previous",
    ) -> None:
        super().__init__()
        self.boxes, self.partner = Boxes(p, law, area, aspect, beta, boxes), partner

    def forward(self, view: View, scene: Scene) -> View:
        """The view with boxes of its partners."""
        region = self.boxes.draw(len(view.images), tuple(view.images.shape[2:]), view.images.device)
        move = partners(self.partner, len(view.images))
        return mix(view, View(move(view.images), view.labels.map(move)), region)


class ClassMix(Mix):
    """ClassMix: half of the classes of another image of the batch are pasted, by its labels (Olsson et al. 2021).

    Shape:
        views `(B, Cin, *S)` with any number of axes.

    Args:
        p: probability that an image is mixed.
        partner: previous: the image before in the batch; reverse: the batch backwards; random: a shift drawn per batch.
    """

    def __init__(self, *, p: Share = 1.0, partner: Literal["previous", "reverse", "random"] = "previous") -> None:
        super().__init__()
        self.p, self.partner = p, partner

    def forward(self, view: View, scene: Scene) -> View:
        """The view with classes of its partners."""
        count = len(view.images)
        total, mine = rows(count)
        device = view.images.device
        with common_draws():
            scores = torch.rand(total, scene.classes, device=device)[mine]
            wanted = (torch.rand(total, device=device) < self.p)[mine]
        region = pasted_classes(view.labels, scores)
        move = partners(self.partner, count)
        region = move(region) & wanted.view(-1, *[1] * (region.dim() - 1))
        return mix(view, View(move(view.images), view.labels.map(move)), region)


class AdaptiveCutMix(Mix):
    """CutMix with labeled images where the teacher is unsure (AugSeg, Zhao et al. 2023).

    In two steps: a copy of each image gets a box of a labeled one, with the chance `1 - c`, where c is the mean of
    `(1 - H) p` over the image's valid pixels, H the normalized entropy and p the largest probability. Then every image
    gets a box of its partner's copy; only there labeled pixels are seen. Labeled image and partner come from the same
    place in the batch; the law is `beta`, see `farcluss.stages.mixing.Boxes`.

    Shape:
        views `(B, Cin, *S)` with any number of axes.

    Args:
        labeled: parameters of the Beta distribution of the first boxes.
        unlabeled: parameters of that of the second boxes.
        partner: previous: the image before in the batch; reverse: the batch backwards; random: a shift drawn per batch.
    """

    def __init__(
        self,
        *,
        labeled: tuple[Positive, Positive] = (8.0, 2.0),
        unlabeled: tuple[Positive, Positive] = (4.0, 4.0),
        partner: Literal["previous", "reverse", "random"] = "random",
    ) -> None:
        super().__init__()
        self.labeled, self.unlabeled = Boxes(law="beta", beta=labeled), Boxes(law="beta", beta=unlabeled)
        self.partner = partner

    def forward(self, view: View, scene: Scene) -> View:
        """The view with boxes of labeled images, then of its partners."""
        count, size, device = len(view.images), tuple(view.images.shape[2:]), view.images.device
        total, mine = rows(count)
        move = partners(self.partner, count)
        with common_draws():
            unsure = torch.rand(total, device=device)[mine] >= confidences(view.labels)
        true = true_labels(scene)
        region = self.labeled.draw(count, size, device) & unsure.view(-1, *[1] * len(size))
        pasted = mix(view, View(move(scene.images), true.map(move)), region)
        return mix(view, View(move(pasted.images), pasted.labels.map(move)), self.unlabeled.draw(count, size, device))


def confidences(labels: PseudoLabels) -> Tensor:
    """Mean of `(1 - H) p` over the valid pixels of each image, `(B,)`; 0 of none."""
    sure = torch.where(labels.valid, (1 - labels.entropy) * labels.confidence, 0)
    return sure.flatten(1).sum(1) / labels.valid.flatten(1).sum(1).clamp(min=1)


def pasted_classes(labels: PseudoLabels, scores: Tensor) -> Tensor:
    """Pixels `(B, *S)` bool of half of the classes of each image, rounded up: those with the largest scores.

    Args:
        labels: of the images; only valid pixels count.
        scores: `(B, C)` in [0, 1).
    """
    classes = labels.classes[:, 0].flatten(1)
    present = torch.zeros_like(scores).scatter_reduce_(1, classes, labels.valid.flatten(1).to(scores), "amax") > 0
    rank = torch.where(present, scores, -1).argsort(1, descending=True).argsort(1)
    chosen = present & (2 * rank < present.sum(1, keepdim=True))
    return chosen.gather(1, classes).view(labels.valid.shape) & labels.valid

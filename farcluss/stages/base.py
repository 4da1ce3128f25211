"""The stage kinds of a recipe and the values that pass between them.

A stage is an `nn.Module`. Its keyword-only constructor arguments are its options: typed, with defaults, checked against
the recipe before anything is built. Its buffers are its state. It gets tensors and returns tensors; it never sees the
model, the accelerator or the recipe. Random draws use torch's global generator, which the engine seeds from
(seed, step, rank); what is drawn per sample is drawn for the whole batch, see `farcluss.tensors.draws`.

Notation used for shapes: B images, C classes, Cin image channels, K kept classes, D embedding size, *S full spatial
size (`H, W` or `D, H, W`), *s spatial size of the feature map. No stage names a spatial axis.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn


class FuzzyLabels(NamedTuple):
    """Sparse soft labels (eq. 2, 3): the kept classes of each pixel, most probable first.

    Attributes:
        values: `(B, K, *S)` float32, sums to 1 over K.
        classes: `(B, K, *S)` int64, class index of each value.
    """

    values: Tensor
    classes: Tensor


@dataclass(frozen=True)
class PseudoLabels:
    """The teacher's labels of some images, and how sure they are.

    Attributes:
        values: `(B, K, *S)` float32, see `FuzzyLabels`.
        classes: `(B, K, *S)` int64, see `FuzzyLabels`; `classes[:, 0]` is the argmax.
        confidence: `(B, *S)` float32, the teacher's largest probability.
        entropy: `(B, *S)` float32 in [0, 1], of the teacher's probabilities, normalized (eq. 5).
        valid: `(B, *S)` bool, False where a pixel came from outside the image or is nodata.
    """

    values: Tensor
    classes: Tensor
    confidence: Tensor
    entropy: Tensor
    valid: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "PseudoLabels":
        """The same labels with `function` applied to every tensor (batch first, spatial axes last)."""
        return replace(self, **{f.name: function(getattr(self, f.name)) for f in fields(self)})

    def combine(self, other: "PseudoLabels", function: Callable[[Tensor, Tensor], Tensor]) -> "PseudoLabels":
        """`function` of each tensor of these labels and of others."""
        return replace(self, **{f.name: function(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)})


class View(NamedTuple):
    """Images that the student sees, and the labels that it is to give them.

    Attributes:
        images: `(B, Cin, *S)`.
        labels: of the same images, moved and mixed as their pixels were.
        share: `(B,)` float32, factor of each image in the unsupervised losses, not in what they are divided by nor in
            the contrast; None for 1.
        drawn: `(B, ...)`, with what the stage `perturb` changes the features of each image; None for unchanged ones.
    """

    images: Tensor
    labels: PseudoLabels
    share: Tensor | None = None
    drawn: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "View":
        """The same view with `function` applied to every tensor (batch first), such as one that takes some rows."""
        share, drawn = (None if each is None else function(each) for each in (self.share, self.drawn))
        return View(function(self.images), self.labels.map(function), share, drawn)


class Scene(NamedTuple):
    """What strong views are made of.

    Attributes:
        weak: the unlabeled images as the teacher saw them, with its labels.
        images: `(B, Cin, *S)`, labeled images.
        masks: `(B, *S)` uint8, their masks; `true_labels` gives them as labels.
        known: `(B, *S)` bool, whether the mask is of a class.
        classes: C.
        student: the student's own labels of the weak images, in evaluation mode; None unless the stage `augment` asks
            for them.
    """

    weak: View
    images: Tensor
    masks: Tensor
    known: Tensor
    classes: int
    student: PseudoLabels | None = None


def true_labels(scene: Scene) -> PseudoLabels:
    """The masks of a scene's labeled images as labels, which go with the pseudo-labels: one class, sure of it.

    Of the K values the first is 1; confidence is 1, entropy 0, and pixels that are ignored are invalid.
    """
    like = scene.weak.labels.values
    first = torch.where(scene.known, scene.masks, 0).long().unsqueeze(1)
    place = torch.arange(like.shape[1], device=first.device).view(1, -1, *[1] * (first.dim() - 2))
    values = (place == 0).to(like.dtype).expand(len(first), -1, *first.shape[2:])
    sure = torch.ones_like(first[:, 0], dtype=like.dtype)
    return PseudoLabels(values, (first + place) % scene.classes, sure, torch.zeros_like(sure), scene.known)


class Anchors(NamedTuple):
    """Labels of the pixels of the embedding map, each `(B, *s)`.

    Attributes:
        classes: int64, true class of labeled pixels, argmax of the pseudo-label elsewhere.
        confidence: float32, 1 for labeled pixels, the teacher's largest probability elsewhere.
        weight: float32, 1 for labeled pixels, the pixel weight elsewhere.
        valid: bool.
        labeled: bool, whether the class is a true label.
    """

    classes: Tensor
    confidence: Tensor
    weight: Tensor
    valid: Tensor
    labeled: Tensor


class ContrastLoss(NamedTuple):
    """Result of a contrast stage.

    Attributes:
        loss: scalar, this process's share of the global loss (the shares of all processes add up to it).
        prototype_cosine: scalar, mean cosine between prototypes of different classes; 1 means collapse.
    """

    loss: Tensor
    prototype_cosine: Tensor


class Augment(nn.Module):
    """Makes the views of a batch of unlabeled images (paper, section on weak and strong views).

    Attributes:
        value_range: of the images that it is for; None for any. Others are refused before training.
        asks_student: whether `strong` needs the student's own labels in the scene, which cost a forward.
    """

    value_range: tuple[float, float] | None = None
    asks_student: bool = False

    def weak(self, images: Tensor, valid: Tensor) -> Tensor:
        """What the teacher sees of `images` `(B, Cin, *S)` with `valid` `(B, *S)` bool: by default the crops.

        8-bit images are in [0, 1], others in the range of their data set; none are normalized yet. Pixels must stay in
        their places.
        """
        return images

    @abstractmethod
    def strong(self, scene: Scene) -> tuple[View, ...]:
        """What the student sees: one or more views of the scene's unlabeled images, as many images as there are."""


class Mix(nn.Module):
    """Mixes the images of a strong view with others of the batch, and their labels alike."""

    @abstractmethod
    def forward(self, view: View, scene: Scene) -> View:
        """The mixed view, of the same shape."""


class Adaptive(nn.Module):
    """A stage whose results may depend on the whole batch, or on earlier ones.

    What does goes through statistics: those of a process are summed over processes, so a result depends neither on the
    number of processes nor on that of micro-batches. Quantiles and maxima are statistics, too, as histograms. State is
    in buffers, which a step that is skipped puts back as they were.

    Attributes:
        progress: 0-dim, share of the training that is done, set before each step.
    """

    progress: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("progress", torch.zeros(()), persistent=False)

    def absorb(self, summed: Tensor) -> None:
        """Update buffers from the `statistics` of all processes, once per step."""

    def labeled_statistics(self, logits: Tensor, masks: Tensor, known: Tensor) -> Tensor | None:
        """Summable statistics of the student's `logits` `(B, C, *S)` float32 of labeled images.

        `masks` `(B, *S)` are theirs, `known` where they are of a class. Called without gradient; None, the default, for
        a stage that needs none.
        """
        return None

    def absorb_labeled(self, summed: Tensor) -> None:
        """Update buffers from `labeled_statistics` of all processes, at the end of a step: the next step sees it."""

    def figures(self, summed: Tensor) -> dict[str, Tensor]:
        """Figures for the log by name, such as an adaptive threshold: scalars, or one number per class."""
        return {}


class PseudoLabel(Adaptive):
    """Turns teacher probabilities into sparse labels (eq. 2, 3)."""

    def align(self, probs: Tensor) -> Tensor:
        """Probabilities `(B, C, *S)` in place of the teacher's, of which labels, confidence and entropy are made."""
        return probs

    @abstractmethod
    def forward(self, probs: Tensor) -> FuzzyLabels:
        """Labels of `probs` `(B, C, *S)` float32, which sum to 1 over C."""

    def statistics(self, probs: Tensor, valid: Tensor) -> Tensor:
        """Summable statistics of the teacher's `probs`, of any shape; only `valid` `(B, *S)` pixels may count.

        The next step sees what `absorb` makes of them. By default none.
        """
        return probs.new_zeros(0)


class PixelWeight(Adaptive):
    """Weighs the pixels of strong views: kinds `weight` (eq. 5, 6) and `rebalance` (eq. 7), which are multiplied.

    Attributes:
        high_entropy: normalized entropy above which a pixel counts as uncertain in the run's diagnostics.
    """

    high_entropy: float = 0.5

    def statistics(self, labels: PseudoLabels, classes: int) -> Tensor:
        """Summable statistics of a view, of any shape; `classes` is C. Only valid pixels may count.

        `absorb` gets their sum over views before `pixels` does. By default none.
        """
        return labels.confidence.new_zeros(0)

    @abstractmethod
    def pixels(self, labels: PseudoLabels, summed: Tensor) -> Tensor:
        """Factor `(B, *S)` float32, 0 or more, of each pixel of a view, or of some of its images."""


class Perturb(nn.Module):
    """Changes features of views between encoder and decoder, inside the student's forward.

    Attributes:
        point: where: `encoder`, the maps that the decoder reads; `fused`, the input of the last convolutions.
    """

    point: str = "encoder"

    @abstractmethod
    def draw(self, views: tuple[View, ...], scene: Scene, channels: tuple[int, ...]) -> tuple[View, ...]:
        """The views that the student sees; those whose features change have parameters in `drawn`.

        Called once for all images of a process, so that micro-batches change nothing. `views` are mixed already; more
        may be added, such as the weak one. `channels` are those of the network's maps at the point.
        """

    @abstractmethod
    def forward(self, maps: tuple[Tensor, ...], drawn: Tensor) -> tuple[Tensor, ...]:
        """The network's `maps` `(R, Cf, *s)` at the point, changed as `drawn` `(R, ...)` says: of some images."""


class Contrast(nn.Module):
    """Pulls the embeddings of confident pixels together by class (eq. 9, 10).

    Attributes:
        dim: size D of the embeddings that the network must return; 0 for none.
        include_labeled: whether labeled pixels enter the loss.
    """

    dim: int = 0
    include_labeled: bool = True

    @abstractmethod
    def forward(self, embeddings: Tensor, anchors: Anchors, classes: int) -> ContrastLoss:
        """Loss on `embeddings` `(B, D, *s)` float32; `classes` is C."""


STAGES: dict[str, type[nn.Module]] = {
    "augment": Augment,
    "mix": Mix,
    "perturb": Perturb,
    "pseudo_label": PseudoLabel,
    "weight": PixelWeight,
    "rebalance": PixelWeight,
    "contrast": Contrast,
}

"""The five stage kinds of a recipe and the values that pass between them.

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
    """The teacher's labels of a view, and their weights.

    Attributes:
        values: `(B, K, *S)` float32, see `FuzzyLabels`.
        classes: `(B, K, *S)` int64, see `FuzzyLabels`; `classes[:, 0]` is the argmax.
        weight: `(B, *S)` float32 in [0, 1].
        confidence: `(B, *S)` float32, the teacher's largest probability.
        valid: `(B, *S)` bool, False where a pixel came from outside the image or is nodata.
    """

    values: Tensor
    classes: Tensor
    weight: Tensor
    confidence: Tensor
    valid: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "PseudoLabels":
        """The same labels with `function` applied to every tensor (batch first, spatial axes last)."""
        return replace(self, **{f.name: function(getattr(self, f.name)) for f in fields(self)})


Follow = Callable[[PseudoLabels], PseudoLabels]


class Views(NamedTuple):
    """The views of one unlabeled batch.

    Attributes:
        weak: `(B, Cin, *S)`, what the teacher sees.
        strong: one or more `(B, Cin, *S)`, what the student sees.
        follow: one function per strong view that warps the labels of the weak view like the view's pixels.
    """

    weak: Tensor
    strong: tuple[Tensor, ...]
    follow: tuple[Follow, ...]


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
    """Turns a batch of unlabeled images into views (paper, section on weak and strong views).

    Attributes:
        value_range: of the images that it is for; None for any. Others are refused before training.
    """

    value_range: tuple[float, float] | None = None

    @abstractmethod
    def forward(self, images: Tensor, valid: Tensor) -> Views:
        """Views of `images` `(B, Cin, *S)` with `valid` `(B, *S)` bool.

        8-bit images are in [0, 1], others in the range of their data set; none are normalized yet.
        """


class PseudoLabel(nn.Module):
    """Turns teacher probabilities into sparse labels (eq. 2, 3)."""

    @abstractmethod
    def forward(self, probs: Tensor) -> FuzzyLabels:
        """Labels of `probs` `(B, C, *S)` float32, which sum to 1 over C."""


class Weight(nn.Module):
    """Gives each pixel a weight in [0, 1] from the teacher's prediction (eq. 5, 6).

    Attributes:
        high_entropy: normalized entropy above which a pixel counts as uncertain in the run's diagnostics.
    """

    high_entropy: float = 0.5

    @abstractmethod
    def forward(self, probs: Tensor) -> Tensor:
        """Weight `(B, *S)` float32 of `probs` `(B, C, *S)` float32."""


class Rebalance(nn.Module):
    """Turns the classes of a batch into class weights (eq. 7).

    `statistics` are those of all images of a process, summed over processes before `forward` sees them, so that the
    weights do not depend on how a batch is split.
    """

    @abstractmethod
    def statistics(self, labels: PseudoLabels, classes: int) -> Tensor:
        """Summable statistics of one batch; `classes` is C. Only valid pixels count."""

    @abstractmethod
    def forward(self, statistics: Tensor) -> Tensor:
        """Class weights `(C,)` float32 from the summed statistics."""

    @abstractmethod
    def pixels(self, labels: PseudoLabels, class_weights: Tensor) -> Tensor:
        """Weight of each pixel `(B, *S)` from `class_weights` `(C,)`: the omega(i) of eq. 8."""


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
    "pseudo_label": PseudoLabel,
    "weight": Weight,
    "rebalance": Rebalance,
    "contrast": Contrast,
}

"""Strong views by a few random operations per image: RGB images in [0, 1]."""

import math
from collections.abc import Callable

import torch
import torchvision.transforms.v2.functional as tv
from torch import Tensor

from farcluss.errors import PluginError
from farcluss.plugins.options import PositiveInt, Share, ShareRange
from farcluss.stages.augment import expect_rgb
from farcluss.stages.base import Augment, PseudoLabels, Scene, View
from farcluss.stages.mixing import inside, mix, partners, placed
from farcluss.tensors.distributed import count_dtype
from farcluss.tensors.draws import common_draws, rows, sum_rows

Operation = Callable[[Tensor, float, float], Tensor]
REACH = 6
"""Pixels to each side of the largest blur."""


def autocontrast(image: Tensor) -> Tensor:
    """An image `(3, H, W)` whose channels fill [0, 1], constant ones as they are; torchvision's indexes by a mask."""
    low, high = image.amin((1, 2), keepdim=True), image.amax((1, 2), keepdim=True)
    return torch.where(high > low, (image - low) / (high - low).clamp(min=torch.finfo(image.dtype).tiny), image)


OPERATIONS: dict[str, Operation] = {
    "identity": lambda image, strength, factor: image,
    "autocontrast": lambda image, strength, factor: autocontrast(image),
    "equalize": lambda image, strength, factor: tv.equalize(image),
    "blur": lambda image, strength, factor: tv.gaussian_blur(image, [2 * REACH + 1] * 2, [0.1 + 1.9 * strength] * 2),
    "contrast": lambda image, strength, factor: tv.adjust_contrast(image, factor),
    "brightness": lambda image, strength, factor: tv.adjust_brightness(image, factor),
    "color": lambda image, strength, factor: tv.adjust_saturation(image, factor),
    "sharpness": lambda image, strength, factor: tv.adjust_sharpness(image, factor),
    "posterize": lambda image, strength, factor: tv.posterize(image, 8 - math.ceil(4 * strength)),
    "solarize": lambda image, strength, factor: tv.solarize(image, strength),
    "hue": lambda image, strength, factor: tv.adjust_hue(image, strength - 0.5),
    "invert": lambda image, strength, factor: tv.invert(image),
}
"""From an image, a strength in [0, 1], and a factor drawn with it, of contrast and the like."""


class RandomOperations(Augment):
    """Strong views by a few operations drawn for each image (AugSeg, Zhao et al. 2023).

    From identity, autocontrast, equalize, blur (sigma 0.1 to 2), contrast, brightness, color, sharpness, posterize (4
    to 7 bits), solarize and hue, with replacement. Labels stay as they are.

    Shape:
        `(B, 3, H, W)` in [0, 1] to views of the same shape.

    Args:
        views: number of strong views, each with draws of its own.
        fewest: smallest number of operations of an image.
        most: largest number.
        factor: range of the factor of contrast, brightness, color and sharpness; 1 changes nothing.
        invert: draw from inversion, too.
    """

    value_range = (0.0, 1.0)

    def __init__(
        self,
        *,
        views: PositiveInt = 1,
        fewest: PositiveInt = 1,
        most: PositiveInt = 3,
        factor: ShareRange = (0.05, 0.95),
        invert: bool = False,
    ) -> None:
        super().__init__()
        if fewest > most:
            raise PluginError(f"augment/random-operations: fewest = {fewest} is more than most = {most}. Swap them.")
        self.views, self.counts, self.factor = views, (fewest, most), factor
        self.names = [name for name in OPERATIONS if invert or name != "invert"]

    def strong(self, scene: Scene) -> tuple[View, ...]:
        """Strong views. Raises PluginError for images that are not two-dimensional RGB, or too small to blur."""
        expect_rgb("augment/random-operations", scene.weak.images, REACH)
        return tuple(View(self.images(scene.weak.images), scene.weak.labels) for _ in range(self.views))

    def images(self, images: Tensor) -> Tensor:
        """Changed `images` `(B, 3, H, W)`."""
        total, mine = rows(len(images))
        plans = self.plans(total)[mine]
        return torch.stack([self._changed(image, plan) for image, plan in zip(images, plans, strict=True)])

    def plans(self, total: int) -> list[list[tuple[str, float]]]:
        """Operations and their strengths for each image of the whole batch; drawn on the CPU, where they are read."""
        fewest, most = self.counts
        with common_draws():
            counts = torch.randint(fewest, most + 1, (total,), device="cpu").tolist()
            chosen = torch.randint(len(self.names), (total, most), device="cpu").tolist()
            strengths = torch.rand(total, most, device="cpu").tolist()
        return [
            [(self.names[number], strength) for number, strength in zip(numbers[:count], of, strict=False)]
            for count, numbers, of in zip(counts, chosen, strengths, strict=True)
        ]

    def _changed(self, image: Tensor, plan: list[tuple[str, float]]) -> Tensor:
        low, high = self.factor
        for name, strength in plan:
            image = OPERATIONS[name](image, strength, low + (high - low) * strength)
        return image.clamp(0, 1)


class ByAgreement(Augment):
    """Views as strong as student and teacher agree about an image (iMAS, Zhao et al. 2023).

    The agreement e of an image, see `agreement`, is the share of the strong view in its first view,
    `e strong + (1 - e) weak`, and the image's share of the loss. The second view is the weak one with CutMix. Whether
    it counts is drawn for the batch, with the mean of e as chance: then each view has half of the loss.

    Shape:
        `(B, 3, H, W)` in [0, 1] to two views of the same shape.

    Args:
        operations: number of operations of the strong view, see augment/random-operations.
        threshold: smallest confidence of a pixel of which a network is sure.
        side: range of the sides of boxes, as a share of the image's; drawn once per batch.
    """

    value_range = (0.0, 1.0)
    asks_student = True

    def __init__(self, *, operations: PositiveInt = 2, threshold: Share = 0.95, side: ShareRange = (0.1, 0.9)) -> None:
        super().__init__()
        self.operations = RandomOperations(fewest=operations, most=operations, factor=(0.1, 0.95), invert=True)
        self.threshold, self.side = threshold, side

    def strong(self, scene: Scene) -> tuple[View, ...]:
        """Both views. Raises PluginError for images that are not two-dimensional RGB, or too small to blur."""
        expect_rgb("augment/by-agreement", scene.weak.images, REACH, instead="Take another method, such as fixmatch.")
        assert scene.student is not None
        weak, count = scene.weak, len(scene.weak.images)
        ease = agreement(scene.student, weak.labels, self.threshold, scene.classes)
        factor = ease.view(-1, 1, 1, 1).to(weak.images)
        blended = factor * self.operations.images(weak.images) + (1 - factor) * weak.images
        total, mine = rows(count)
        with common_draws():
            low, high = self.side
            side = low + (high - low) * float(torch.rand((), device="cpu"))
            first, last = placed(total, weak.images.dim() - 2, side, weak.images.device)
            coin = torch.rand((), device=ease.device)
        mixes = (coin < sum_rows(ease.to(count_dtype(ease.device)).sum()) / total).to(ease)
        move = partners("random", count)
        region = inside(first[mine], last[mine], tuple(weak.images.shape[2:]))
        mixed = mix(weak, View(move(weak.images), weak.labels.map(move)), region)
        return View(blended, weak.labels, ease * (1 - mixes / 2)), mixed._replace(share=ease * mixes / 2)


def agreement(student: PseudoLabels, teacher: PseudoLabels, threshold: float, classes: int) -> Tensor:
    """How much student and teacher agree about each image, `(B,)` float32 in [0, 1].

    `e = (r_t wIoU(s, t) + r_s wIoU(t, s)) / 2` with `r` the share of pixels of which a network is sure and
    `wIoU(a, b)` the IoU of the classes but the first, each weighted by its pixels in b. Only valid pixels count.

    Args:
        student: its labels.
        teacher: its labels of the same images.
        threshold: smallest confidence of a pixel of which a network is sure.
        classes: C.
    """
    valid = teacher.valid.flatten(1)
    pairs = student.classes[:, 0].flatten(1) * classes + teacher.classes[:, 0].flatten(1)
    counts = torch.zeros(len(valid), classes**2, device=valid.device).scatter_add_(1, pairs, valid.float())
    counts = counts.view(-1, classes, classes)
    both = counts.diagonal(dim1=1, dim2=2)
    masses = counts.sum(2), counts.sum(1)
    iou = (both / (masses[0] + masses[1] - both).clamp(min=1))[:, 1:]
    sure = [(each.valid & (each.confidence >= threshold)).flatten(1).sum(1) for each in (teacher, student)]
    number = valid.sum(1).clamp(min=1)
    parts = [
        share / number * (iou * mass[:, 1:]).sum(1) / mass[:, 1:].sum(1).clamp(min=1)
        for share, mass in zip(sure, reversed(masses), strict=True)
    ]
    return (parts[0] + parts[1]) / 2

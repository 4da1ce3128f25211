"""A strong view of images and volumes with any channels and any range of values."""

import math

import torch
from torch import Tensor

from farcluss.errors import PluginError
from farcluss.plugins.options import Count, Hue, NonNegative, PositiveRange, Share, ShareRange
from farcluss.stages import intensity
from farcluss.stages.base import Augment, PseudoLabels, Views
from farcluss.stages.mixing import mix, random_boxes
from farcluss.tensors.draws import common_draws, rows


class Intensity(Augment):
    """A strong view by intensity alone, as nnU-Net changes it but stronger; cutout, and CutMix by option.

    Every change is relative to the image's own channels, so that their range does not matter, and the view stays in
    the range of the image. Each sample is changed with its own chances and strengths; those of brightness, contrast
    and gamma are each channel's own, and those of blur and resolution each axis' own. Labels stay where they are, but
    for CutMix, which moves them with the pixels. Colors are changed where `rgb_bands` says which channels have them.

    Shape:
        `(B, Cin, *S)`, two or three axes, any channels, to one strong view of the same shape.

    Args:
        noise: bounds of the noise's standard deviation, as a share of the channel's.
        noise_p: chance of noise.
        blur: bounds of the Gaussian's sigma, pixels.
        blur_p: chance of blur.
        brightness: largest shift in either direction, in standard deviations of the channel.
        brightness_p: chance of a shift.
        contrast: bounds of the factor on distances from the channel's mean.
        contrast_p: chance of a change of contrast.
        resolution: bounds of the share of pixels that are left along an axis.
        resolution_p: chance of a low resolution.
        gamma: bounds of the power that is applied to the channel's range.
        gamma_p: chance of a power.
        rgb_bands: indices of the red, the green and the blue channel, the first is 0, such as [2, 1, 0]; without them
            there are no changes of color.
        hue: largest turn of the three channels' colors in either direction, as a share of the color circle.
        hue_p: chance of a turn.
        gray_p: chance that the three channels become their mean.
        drop_p: chance of losing one channel, where there are several.
        cutout: chance of a box that is filled with the channel's mean.
        cutout_area: bounds of the share of the image that is filled.
        cutmix: chance of CutMix; the partner is the previous sample of the batch.
        cutmix_area: bounds of the share of the image that is replaced.
        aspect: bounds of the aspect ratio of both boxes.
        thick_axes: axes of the image, the first is 0, along which there is no blur and no loss of resolution, such as
            [0] for thick slices.
    """

    def __init__(
        self,
        *,
        noise: ShareRange = (0.0, 0.3),
        noise_p: Share = 0.3,
        blur: PositiveRange = (0.5, 1.5),
        blur_p: Share = 0.3,
        brightness: NonNegative = 0.5,
        brightness_p: Share = 0.5,
        contrast: PositiveRange = (0.65, 1.5),
        contrast_p: Share = 0.5,
        resolution: ShareRange = (0.5, 1.0),
        resolution_p: Share = 0.25,
        gamma: PositiveRange = (0.7, 1.5),
        gamma_p: Share = 0.5,
        rgb_bands: tuple[Count, ...] = (),
        hue: Hue = 0.1,
        hue_p: Share = 0.5,
        gray_p: Share = 0.2,
        drop_p: Share = 0.1,
        cutout: Share = 0.25,
        cutout_area: ShareRange = (0.02, 0.2),
        cutmix: Share = 0.0,
        cutmix_area: ShareRange = (0.02, 0.4),
        aspect: PositiveRange = (0.3, 3.3),
        thick_axes: tuple[Count, ...] = (),
    ) -> None:
        super().__init__()
        self.noise, self.noise_p = noise, noise_p
        self.blur, self.blur_p, self.radius = blur, blur_p, math.ceil(3 * blur[1])  # three sigmas to each side
        self.brightness, self.brightness_p = brightness, brightness_p
        self.contrast, self.contrast_p = contrast, contrast_p
        self.resolution, self.resolution_p = resolution, resolution_p
        self.gamma, self.gamma_p = gamma, gamma_p
        self.rgb_bands = _three(rgb_bands) if rgb_bands else None
        self.hue, self.hue_p, self.gray_p = hue, hue_p, gray_p
        self.drop_p = drop_p
        self.cutout, self.cutout_area = cutout, cutout_area
        self.cutmix, self.cutmix_area = cutmix, cutmix_area
        self.aspect, self.thick_axes = aspect, thick_axes

    def forward(self, images: Tensor, valid: Tensor) -> Views:
        """One strong view. Raises PluginError where the images lack one of `thick_axes` or `rgb_bands`."""
        size = tuple(images.shape[2:])
        _check_indices("thick_axes", self.thick_axes, "axes", len(size))
        _check_indices("rgb_bands", self.rgb_bands or (), "channels", images.shape[1])
        strong = intensity.keep_range(self._recolored(self._degraded(images)), images)
        if self.drop_p and images.shape[1] > 1:
            strong = intensity.drop_channels(strong, self._dropped(images))
        if self.cutout:
            boxes = random_boxes(len(images), size, self.cutout, self.cutout_area, self.aspect, images.device)
            strong = intensity.cut_out(strong, boxes)
        if not self.cutmix:
            return Views(images, (strong,), (lambda labels: labels,))
        mixed = random_boxes(len(images), size, self.cutmix, self.cutmix_area, self.aspect, images.device)

        def follow(labels: PseudoLabels) -> PseudoLabels:
            return labels.map(lambda tensor: mix(tensor, mixed))

        return Views(images, (mix(strong, mixed),), (follow,))

    def _degraded(self, images: Tensor) -> Tensor:
        """What a worse scanner would have seen: noise, blur, fewer pixels."""
        axes = images.dim() - 2
        if self.noise_p:
            strength = _drawn(images, self.noise, self.noise_p, 0.0)
            images = intensity.add_noise(images, strength, _seeds(images))
        if self.blur_p:
            sigma = self._sharp(_drawn(images, self.blur, self.blur_p, 0.0, axes), 0.0)
            images = intensity.blur(images, sigma, self.radius)
        if self.resolution_p:
            share = self._sharp(_drawn(images, self.resolution, self.resolution_p, 1.0, axes), 1.0)
            images = intensity.lower_resolution(images, share)
        return images

    def _recolored(self, images: Tensor) -> Tensor:
        """Another scale of values: brightness, contrast, gamma; then other colors, so that gray is gray."""
        channels = images.shape[1]
        if self.brightness_p:
            bounds = -self.brightness, self.brightness
            images = intensity.brighten(images, _drawn(images, bounds, self.brightness_p, 0.0, channels))
        if self.contrast_p:
            logs = math.log(self.contrast[0]), math.log(self.contrast[1])
            images = intensity.change_contrast(images, _drawn(images, logs, self.contrast_p, 0.0, channels).exp())
        if self.gamma_p:
            logs = math.log(self.gamma[0]), math.log(self.gamma[1])
            images = intensity.change_gamma(images, _drawn(images, logs, self.gamma_p, 0.0, channels).exp())
        if self.rgb_bands and self.hue_p:
            turn = _drawn(images, (-self.hue, self.hue), self.hue_p, 0.0)
            images = intensity.turn_hue(images, turn, self.rgb_bands)
        if self.rgb_bands and self.gray_p:
            images = intensity.to_gray(images, _chosen(images, self.gray_p), self.rgb_bands)
        return images

    def _dropped(self, images: Tensor) -> Tensor:
        """`(B, Cin)` bool: one channel of the samples that lose one."""
        total, mine = rows(len(images))
        with common_draws():
            scores = torch.rand(total, images.shape[1], device=images.device)[mine]
            chosen = (torch.rand(total, 1, device=images.device) < self.drop_p)[mine]
        return chosen & (scores == scores.amin(1, keepdim=True))

    def _sharp(self, values: Tensor, neutral: float) -> Tensor:
        """`values` `(B, A)` with the neutral one along thick axes."""
        for axis in self.thick_axes:
            values[:, axis] = neutral
        return values


def _three(bands: tuple[int, ...]) -> tuple[int, int, int]:
    """Red, green and blue. Raises PluginError when that is not what `bands` are."""
    if len(bands) != 3 or len(set(bands)) != 3:
        fault = f"has {len(bands)} indices" if len(bands) != 3 else "names a channel twice"
        raise PluginError(
            f"augment/intensity: rgb_bands = {list(bands)} {fault}.\n"
            "Set stages.augment.rgb_bands to the indices of the red, the green and the blue channel, or leave it out."
        )
    return bands[0], bands[1], bands[2]


def _check_indices(option: str, indices: tuple[int, ...], things: str, count: int) -> None:
    """Raises PluginError where the images, which have `count` axes or channels, lack one of an option's."""
    if indices and max(indices) >= count:
        raise PluginError(
            f"augment/intensity: {option} = {list(indices)}, but the images have {things} 0 to {count - 1}.\n"
            f"Set stages.augment.{option} to {things} that they have."
        )


def _drawn(images: Tensor, bounds: tuple[float, float], p: float, neutral: float, *shape: int) -> Tensor:
    """Uniform values `(B, *shape)` for this process's images; for a sample that is not chosen the neutral one."""
    total, mine = rows(len(images))
    with common_draws():
        values = torch.empty(total, *shape, device=images.device).uniform_(*bounds)
        chosen = torch.rand(total, *[1] * len(shape), device=images.device) < p
    return torch.where(chosen, values, neutral)[mine]


def _chosen(images: Tensor, p: float) -> Tensor:
    """`(B,)` bool: which of this process's images are chosen."""
    total, mine = rows(len(images))
    with common_draws():
        return (torch.rand(total, device=images.device) < p)[mine]


def _seeds(images: Tensor) -> Tensor:
    """A seed `(B,)` for each image of this process."""
    total, mine = rows(len(images))
    with common_draws():
        return torch.randint(2**62, (total,), device=images.device)[mine]

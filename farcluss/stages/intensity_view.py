"""A strong view of images and volumes with any channels and any range of values."""

import math

import torch
from torch import Tensor

from farcluss.errors import PluginError
from farcluss.plugins.options import Count, Hue, NonNegative, PositiveInt, PositiveRange, Share, ShareRange
from farcluss.stages import intensity
from farcluss.stages.base import Augment, Scene, View
from farcluss.stages.mixing import Boxes
from farcluss.tensors.draws import common_draws, rows


class Intensity(Augment):
    """Strong views by intensity transforms, like nnU-Net's but stronger; and cutout.

    Transforms are relative to the image's own channels, so that their range does not matter, and the view keeps the
    range of the image. Parameters are drawn per sample and view; those of brightness, contrast and gamma also per
    channel, those of blur and resolution per axis. Labels stay as they are. Colors are changed if `rgb_bands` names
    their channels.

    Shape:
        `(B, Cin, *S)`, two or three axes, any channels, to views of the same shape.

    Args:
        views: number of strong views, each with draws of its own.
        noise: range of the noise's standard deviation, as a share of the channel's.
        noise_p: probability of noise.
        blur: range of the Gaussian's sigma in pixels.
        blur_p: probability of blur.
        brightness: largest shift in either direction, in standard deviations of the channel.
        brightness_p: probability of a shift.
        contrast: range of the factor on distances from the channel's mean.
        contrast_p: probability of a change of contrast.
        resolution: range of the share of pixels that are kept along an axis.
        resolution_p: probability of a lower resolution.
        gamma: range of the exponent of the gamma correction.
        gamma_p: probability of a gamma correction.
        rgb_bands: indices of the red, green and blue channels, counted from 0, such as [2, 1, 0]; without them colors
            are not changed.
        hue: largest rotation of the hue in either direction, as a share of the color circle.
        hue_p: probability of a hue rotation.
        gray_p: probability that the three channels are replaced by their mean.
        drop_p: probability of dropping one channel, if there are several.
        cutout: probability of a box that is filled with the channel's mean.
        cutout_area: range of the share of the image that is filled.
        cutout_aspect: range of the aspect ratio of the box, log-uniformly.
        thick_axes: axes of the image, counted from 0, without blur and loss of resolution, such as [0] for thick
            slices.
    """

    def __init__(
        self,
        *,
        views: PositiveInt = 1,
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
        cutout_aspect: PositiveRange = (0.3, 3.3),
        thick_axes: tuple[Count, ...] = (),
    ) -> None:
        super().__init__()
        self.noise, self.noise_p = noise, noise_p
        self.blur, self.blur_p, self.radius = blur, blur_p, math.ceil(3 * blur[1])  # three sigmas to each side
        self.brightness, self.brightness_p = brightness, brightness_p
        self.contrast, self.contrast_p = contrast, contrast_p
        self.resolution, self.resolution_p = resolution, resolution_p
        self.gamma, self.gamma_p = gamma, gamma_p
        self.rgb_bands = _rgb(rgb_bands) if rgb_bands else None
        self.hue, self.hue_p, self.gray_p = hue, hue_p, gray_p
        self.drop_p = drop_p
        self.cutout = Boxes(cutout, "log-uniform", cutout_area, cutout_aspect)
        self.views, self.thick_axes = views, thick_axes

    def strong(self, scene: Scene) -> tuple[View, ...]:
        """Strong views. Raises PluginError if the images lack one of `thick_axes` or `rgb_bands`."""
        images = scene.weak.images
        size = tuple(images.shape[2:])
        _check_indices("thick_axes", self.thick_axes, "axes", len(size))
        _check_indices("rgb_bands", self.rgb_bands or (), "channels", images.shape[1])
        return tuple(View(self._view(images), scene.weak.labels) for _ in range(self.views))

    def _view(self, images: Tensor) -> Tensor:
        strong = intensity.keep_range(self._recolored(self._degraded(images)), images)
        if self.drop_p and images.shape[1] > 1:
            strong = intensity.drop_channels(strong, self._dropped(images))
        if self.cutout.p:
            strong = intensity.cut_out(strong, self.cutout.draw(len(images), tuple(images.shape[2:]), images.device))
        return strong

    def _degraded(self, images: Tensor) -> Tensor:
        """Lower image quality: noise, blur, lower resolution."""
        axes = images.dim() - 2
        if self.noise_p:
            strength = _drawn(images, self.noise, self.noise_p, 0.0)
            images = intensity.add_noise(images, strength, _seeds(images))
        if self.blur_p:
            sigma = self._skip_thick(_drawn(images, self.blur, self.blur_p, 0.0, axes), 0.0)
            images = intensity.blur(images, sigma, self.radius)
        if self.resolution_p:
            share = self._skip_thick(_drawn(images, self.resolution, self.resolution_p, 1.0, axes), 1.0)
            images = intensity.lower_resolution(images, share)
        return images

    def _recolored(self, images: Tensor) -> Tensor:
        """Brightness, contrast, gamma; then colors, so that gray stays gray."""
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
        """`(B, Cin)` bool: the channel to drop of each chosen sample."""
        total, mine = rows(len(images))
        with common_draws():
            scores = torch.rand(total, images.shape[1], device=images.device)[mine]
            chosen = (torch.rand(total, 1, device=images.device) < self.drop_p)[mine]
        return chosen & (scores == scores.amin(1, keepdim=True))

    def _skip_thick(self, values: Tensor, neutral: float) -> Tensor:
        """`values` `(B, A)` with `neutral` along thick axes."""
        for axis in self.thick_axes:
            values[:, axis] = neutral
        return values


def _rgb(bands: tuple[int, ...]) -> tuple[int, int, int]:
    """The red, green and blue band. Raises PluginError unless `bands` are three different ones."""
    if len(bands) != 3 or len(set(bands)) != 3:
        fault = f"has {len(bands)} indices" if len(bands) != 3 else "names a channel twice"
        raise PluginError(
            f"augment/intensity: rgb_bands = {list(bands)} {fault}.\n"
            "Set stages.augment.rgb_bands to the indices of the red, the green and the blue channel, or leave it out."
        )
    return bands[0], bands[1], bands[2]


def _check_indices(option: str, indices: tuple[int, ...], things: str, count: int) -> None:
    """Raises PluginError if an index of an option exceeds the `count` axes or channels of the images."""
    if indices and max(indices) >= count:
        raise PluginError(
            f"augment/intensity: {option} = {list(indices)}, but the images have {things} 0 to {count - 1}.\n"
            f"Set stages.augment.{option} to {things} that they have."
        )


def _drawn(images: Tensor, bounds: tuple[float, float], p: float, neutral: float, *shape: int) -> Tensor:
    """Uniform values `(B, *shape)` for this process's images, with probability `p`, else `neutral`."""
    total, mine = rows(len(images))
    with common_draws():
        values = torch.empty(total, *shape, device=images.device).uniform_(*bounds)
        chosen = torch.rand(total, *[1] * len(shape), device=images.device) < p
    return torch.where(chosen, values, neutral)[mine]


def _chosen(images: Tensor, p: float) -> Tensor:
    """`(B,)` bool, True with probability `p` for each of this process's images."""
    total, mine = rows(len(images))
    with common_draws():
        return (torch.rand(total, device=images.device) < p)[mine]


def _seeds(images: Tensor) -> Tensor:
    """A seed `(B,)` for each image of this process."""
    total, mine = rows(len(images))
    with common_draws():
        return torch.randint(2**62, (total,), device=images.device)[mine]

"""Strong views of unlabeled images, with pseudo-labels warped alike."""

from typing import Any

import kornia.augmentation as K
import torch
from kornia.geometry.transform import warp_affine
from torch import Tensor, nn

from farcluss.errors import PluginError
from farcluss.plugins.options import Degrees, Hue, PositiveInt, PositiveRange, Share
from farcluss.stages.base import Augment, PseudoLabels, Scene, View
from farcluss.tensors.draws import common_draws, rows


class Identity(Augment):
    """The strong view is the weak view: no augmentation beyond the crop, as in a plain mean teacher.

    Shape:
        `(B, Cin, *S)` to one view of the same shape.
    """

    def strong(self, scene: Scene) -> tuple[View, ...]:
        """One strong view, equal to the weak one."""
        return (scene.weak,)


ANY_CHANNELS = 'Set stages.augment = "intensity", which takes any channels.'


def expect_rgb(plugin: str, images: Tensor, reach: int, *, otherwise: str = "", instead: str = ANY_CHANNELS) -> None:
    """Refuse other images than `(B, 3, H, W)`, and sides that a blur of `reach` pixels does not fit in.

    Args:
        plugin: of which this is asked, for messages.
        images: any.
        reach: pixels to each side.
        otherwise: what else helps against too small sides.
        instead: what to do about other images.

    Raises:
        PluginError: they are.
    """
    if images.dim() != 4 or images.shape[1] != 3:
        raise PluginError(f"{plugin} needs RGB images (B, 3, H, W), not {tuple(images.shape)}.\n{instead}")
    if reach >= min(images.shape[2:]):
        height, width = images.shape[2:]
        raise PluginError(
            f"{plugin} blurs {reach} pixels to each side, too far in crops of {height} x {width}.\n"
            f"Raise data.crop to {reach + 1} or more{otherwise}."
        )


def warp_labels(labels: PseudoLabels, matrix: Tensor) -> PseudoLabels:
    """Labels moved by an affine pixel map, nearest neighbor; what comes from outside the image is invalid.

    Args:
        labels: tensors `(B, [K,] H, W)`.
        matrix: `(B, 2, 3)`, from source to destination pixels, as `warp_affine` takes it.
    """

    def move(tensor: Tensor) -> Tensor:
        planes = tensor.unsqueeze(1) if tensor.dim() == 3 else tensor
        moved = warp_affine(planes.to(matrix), matrix, planes.shape[-2:], mode="nearest", padding_mode="zeros")
        result: Tensor = moved.view(tensor.shape).to(tensor.dtype)
        return result

    return labels.map(move)


def apply(operation: Any, images: Tensor) -> Tensor:
    """A kornia operation on `(B, C, H, W)`, its parameters drawn for the whole batch, see `farcluss.tensors.draws`."""
    total, mine = rows(len(images))
    # Drawn on the CPU: kornia reads the values, which would be a host sync.
    operation.set_rng_device_and_dtype(torch.device("cpu"), torch.float32)
    with common_draws():
        drawn = operation.forward_parameters((total, *images.shape[1:]))
    shared = {"order", "forward_input_shape"}  # one for all samples: the order of jitter, and the shape itself
    parameters = {
        name: value[mine] if name not in shared and len(value) == total else value for name, value in drawn.items()
    }
    parameters["forward_input_shape"] = torch.tensor(images.shape)
    result: Tensor = operation(images, params=parameters)
    return result


class Photometric(Augment):
    """The usual strong view: color jitter, grayscale, blur; optional affine warp. Two-dimensional RGB.

    Parameters are drawn per sample and view. Labels are warped like the pixels, and pixels from outside the image
    become invalid.

    Shape:
        `(B, 3, H, W)` in [0, 1] to views of the same shape.

    Args:
        views: number of strong views, each with draws of its own.
        jitter: strength of brightness, contrast, saturation (each around 1) and hue (in turns, at most 0.5).
        jitter_p: probability of jitter.
        grey_p: probability of grayscale.
        blur: range of the Gaussian's sigma in pixels.
        blur_p: probability of blur.
        degrees: largest rotation; 0 for none.
        translate: largest shift as a share of the side; 0 for none.
        zoom: range of the scale of the strong view relative to the weak one.
    """

    value_range = (0.0, 1.0)

    def __init__(
        self,
        *,
        views: PositiveInt = 1,
        jitter: tuple[Share, Share, Share, Hue] = (0.5, 0.5, 0.5, 0.25),
        jitter_p: Share = 0.8,
        grey_p: Share = 0.2,
        blur: PositiveRange = (0.1, 2.0),
        blur_p: Share = 0.5,
        degrees: Degrees = 0.0,
        translate: Share = 0.0,
        zoom: PositiveRange = (1.0, 1.0),
    ) -> None:
        super().__init__()
        self.views = views
        self.reach = int(3 * blur[1]) if blur_p > 0 else 0  # three sigmas to each side
        side = 2 * self.reach + 1
        self.color = nn.ModuleList(
            [
                K.ColorJitter(*jitter, p=jitter_p),
                K.RandomGrayscale(p=grey_p),
                K.RandomGaussianBlur((side, side), blur, p=blur_p),
            ]
        )
        moves = degrees > 0 or translate > 0 or tuple(zoom) != (1.0, 1.0)
        shift = (translate, translate) if translate else None
        self.affine = K.RandomAffine(degrees, shift, zoom, p=1.0) if moves else None

    def strong(self, scene: Scene) -> tuple[View, ...]:
        """Strong views. Raises PluginError for images that are not two-dimensional RGB, or too small to blur."""
        expect_rgb("augment/photometric", scene.weak.images, self.reach, otherwise=", or lower stages.augment.blur")
        return tuple(self._view(scene.weak) for _ in range(self.views))

    def _view(self, weak: View) -> View:
        images, labels = weak.images, weak.labels
        for operation in self.color:
            images = apply(operation, images)
        images = images.clamp(0, 1)
        if self.affine is not None:
            images = apply(self.affine, images)
            labels = warp_labels(labels, self.affine.transform_matrix[:, :2].to(images))
        return View(images, labels)

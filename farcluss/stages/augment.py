"""Strong views of unlabeled images, with pseudo-labels warped alike."""

from typing import Any

import kornia.augmentation as K
import torch
from kornia.geometry.transform import warp_affine
from torch import Tensor, nn

from farcluss.errors import PluginError
from farcluss.plugins.options import Degrees, Hue, PositiveRange, Share, ShareRange
from farcluss.stages.base import Augment, PseudoLabels, Views
from farcluss.stages.mixing import mix, random_boxes
from farcluss.tensors.draws import common_draws, rows


def _unmoved(labels: PseudoLabels) -> PseudoLabels:
    return labels


class Identity(Augment):
    """The strong view is the weak view: no augmentation beyond the crop, as in a plain mean teacher.

    Shape:
        `(B, Cin, *S)` to views of the same shape.
    """

    def forward(self, images: Tensor, valid: Tensor) -> Views:
        """One strong view, equal to the weak one."""
        return Views(images, (images,), (_unmoved,))


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
    """The usual strong view: color jitter, grayscale, blur; optional affine warp and CutMix. Two-dimensional RGB.

    Parameters are drawn per sample. Labels are warped and mixed like the pixels, and pixels from outside the image
    become invalid.

    Shape:
        `(B, 3, H, W)` in [0, 1] to one strong view of the same shape.

    Args:
        jitter: strength of brightness, contrast, saturation (each around 1) and hue (in turns, at most 0.5).
        jitter_p: probability of jitter.
        grey_p: probability of grayscale.
        blur: range of the Gaussian's sigma in pixels.
        blur_p: probability of blur.
        degrees: largest rotation; 0 for none.
        translate: largest shift as a share of the side; 0 for none.
        zoom: range of the scale of the strong view relative to the weak one.
        cutmix: probability of CutMix per sample; the partner is the previous sample of the batch.
        cutmix_area: range of the share of the image that is replaced.
        cutmix_aspect: range of the aspect ratio of the box.
    """

    value_range = (0.0, 1.0)

    def __init__(
        self,
        *,
        jitter: tuple[Share, Share, Share, Hue] = (0.5, 0.5, 0.5, 0.25),
        jitter_p: Share = 0.8,
        grey_p: Share = 0.2,
        blur: PositiveRange = (0.1, 2.0),
        blur_p: Share = 0.5,
        degrees: Degrees = 0.0,
        translate: Share = 0.0,
        zoom: PositiveRange = (1.0, 1.0),
        cutmix: Share = 0.0,
        cutmix_area: ShareRange = (0.02, 0.4),
        cutmix_aspect: PositiveRange = (0.3, 3.3),
    ) -> None:
        super().__init__()
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
        self.cutmix, self.cutmix_area, self.cutmix_aspect = cutmix, cutmix_area, cutmix_aspect

    def forward(self, images: Tensor, valid: Tensor) -> Views:
        """One strong view. Raises PluginError for images that are not two-dimensional RGB, or too small to blur."""
        if images.dim() != 4 or images.shape[1] != 3:
            raise PluginError(
                f"augment/photometric needs RGB images (B, 3, H, W), not {tuple(images.shape)}.\n"
                'Set stages.augment = "intensity", which takes any channels.'
            )
        if self.reach >= min(images.shape[2:]):
            height, width = images.shape[2:]
            raise PluginError(
                f"augment/photometric blurs {self.reach} pixels to each side, too far in crops of {height} x {width}.\n"
                f"Raise data.crop to {self.reach + 1} or more, or lower stages.augment.blur."
            )
        strong = images
        for operation in self.color:
            strong = apply(operation, strong)
        strong = strong.clamp(0, 1)
        matrix = None
        if self.affine is not None:
            strong = apply(self.affine, strong)
            matrix = self.affine.transform_matrix[:, :2].to(images)
        boxes = None
        if self.cutmix > 0:
            size = tuple(images.shape[2:])
            boxes = random_boxes(len(images), size, self.cutmix, self.cutmix_area, self.cutmix_aspect, images.device)
            strong = mix(strong, boxes)

        def follow(labels: PseudoLabels) -> PseudoLabels:
            moved = labels if matrix is None else warp_labels(labels, matrix)
            return moved if boxes is None else moved.map(lambda tensor: mix(tensor, boxes))

        return Views(images, (strong,), (follow,))

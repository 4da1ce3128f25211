"""A picture of a batch: input, strong view, pseudo-label, uncertainty, prediction, truth."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from farcluss.data.base import IGNORE, Palette
from farcluss.inference.writers import to_picture
from farcluss.learning.batches import Batch
from farcluss.learning.learner import Learner
from farcluss.runs.atomic import write_atomically

COLUMNS = ("input", "strong view", "pseudo-label", "uncertainty", "prediction", "truth")
GAP, WIDTH, HEADER = 4, 1200, 28
WHITE, INVALID = 255, (255, 255, 255)


@torch.no_grad()
def draw_panel(learner: Learner, batch: Batch, palette: Palette) -> tuple[NDArray[np.uint8], int]:
    """A grid of pictures, one row per unlabeled image of the batch; the columns are `COLUMNS`.

    Pseudo-label, uncertainty (normalized entropy of the teacher, white is 1) and the student's prediction are those of
    the weak view. The true masks are shown where unlabeled images have them.

    Returns:
        `(height, width, 3)` uint8, and the number of columns.
    """
    assert batch.truth is not None
    scene, _ = learner.scene(batch)
    images, labels, views = scene.weak.images, scene.weak.labels, learner.strong_views(scene)
    student: Any = getattr(learner.student, "module", learner.student)
    training = student.training
    predicted = student.eval()(learner.normalize(images)).logits.argmax(1)
    student.train(training)
    colors = torch.tensor([*palette, *[INVALID] * (IGNORE + 1 - len(palette))], dtype=torch.uint8)
    columns = [
        _pictures(_plane(images, 2)),
        _pictures(_plane(views[0].images, 2)),
        colors[_plane(labels.classes[:, 0].where(labels.valid, IGNORE), 1).cpu()],
        _pictures(_plane(labels.entropy.unsqueeze(1), 2)),
        colors[_plane(predicted.where(labels.valid, IGNORE), 1).cpu()],
    ]
    if bool((batch.truth != IGNORE).any()):
        columns.append(colors[_plane(batch.truth.long(), 1).cpu()])
    return _grid([column.numpy() for column in columns]), len(columns)


def _plane(tensor: Tensor, leading: int) -> Tensor:
    """The middle plane of a tensor with more than two spatial axes after the `leading` ones."""
    while tensor.dim() > leading + 2:
        tensor = tensor[..., tensor.shape[-1] // 2]
    return tensor


def _pictures(images: Tensor) -> Tensor:
    """`(B, Cin, H, W)` as `(B, H, W, 3)` uint8, see `to_picture`."""
    return torch.from_numpy(np.stack([to_picture(image) for image in images.float().cpu().numpy()]))


def _grid(columns: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    rows, height, width = columns[0].shape[:3]
    shape = (rows * (height + GAP) - GAP, len(columns) * (width + GAP) - GAP, 3)
    grid = np.full(shape, WHITE, np.uint8)
    for x, column in enumerate(columns):
        for y, picture in enumerate(column):
            top, left = y * (height + GAP), x * (width + GAP)
            grid[top : top + height, left : left + width] = picture
    return grid


def save_panel(path: Path, grid: NDArray[np.uint8], columns: int) -> None:
    """Write a grid as PNG with a title over each of its columns, enlarged to about `WIDTH` where it is small."""
    factor = max(1, WIDTH // grid.shape[1])
    picture = Image.fromarray(grid).resize((grid.shape[1] * factor, grid.shape[0] * factor), Image.Resampling.NEAREST)
    page = Image.new("RGB", (picture.width, picture.height + HEADER), "white")
    page.paste(picture, (0, HEADER))
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(COLUMNS[:columns]):
        draw.text((column * (grid.shape[1] + GAP) * factor // columns + 2, 6), title, fill="black", font_size=14)
    content = io.BytesIO()
    page.save(content, "PNG")
    write_atomically(path, content.getvalue())

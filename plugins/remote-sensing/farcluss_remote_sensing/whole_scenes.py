"""Prediction of whole scenes by strips, in this process or in several.

Notation used for shapes: B tiles, C classes, h, W rows and columns.
"""

import os
import signal
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from multiprocessing import Pipe, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray

from farcluss.data.base import Window
from farcluss.errors import DataError, FarclussError
from farcluss.inference.card import Inference
from farcluss.inference.ensemble import load_together, members
from farcluss.inference.probs import check_finite, even_parts, images_per_forward, uncertainty
from farcluss.inference.weights import Model, save_weights
from farcluss_remote_sensing.files import Stack
from farcluss_remote_sensing.scaling import Scaling
from farcluss_remote_sensing.stitching import Axis, stitched_rows
from farcluss_remote_sensing.strips import Strips

CACHE = 2**29
"""Bytes of GDAL's block cache, whose default is a share of the machine's memory."""

PIECE = 64
"""Rows whose maps are computed at once."""

NO_CLASS = 255
"""Class index of invalid pixels."""


@dataclass(frozen=True)
class Task:
    """Everything that a process needs to predict strips of a scene.

    Attributes:
        stack: the scene's bands.
        scaling: of the bands.
        rows: tiles from top to bottom.
        columns: tiles from left to right.
        strips: storage of finished rows.
    """

    stack: Stack
    scaling: Scaling
    rows: Axis
    columns: Axis
    strips: Strips


def predict_strips(model: Model, task: Task, numbers: Sequence[int]) -> Iterator[int]:
    """Predict strips and write them; neighbors share the tiles on their border.

    Yields:
        Numbers of rows that have been finished.

    Raises:
        DataError: a file cannot be read.
    """
    for run in _runs(numbers):
        pieces = _pieces(model, task, task.strips.bounds(run[0])[0], task.strips.bounds(run[-1])[1])
        steps = task.strips.write(pieces, run)
        while True:
            with rasterio.Env(GDAL_CACHEMAX=CACHE), model.evaluating():
                height = next(steps, None)
            if height is None:
                break
            yield height


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    """Ascending numbers, in runs without a gap."""
    runs = groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    return [[number for _, number in run] for _, run in runs]


def _pieces(model: Model, task: Task, first: int, last: int) -> Iterator[tuple[int, dict[str, NDArray[Any]], Any]]:
    """Maps and band sums of rows `[first, last)`, a few rows at a time and never across strips."""

    def predict(windows: Sequence[Window]) -> Iterator[tuple[Window, NDArray[np.float32]]]:
        return predict_tiles(model, task, windows)

    classes = len(model.classes)
    for top, probs in stitched_rows(predict, task.rows, task.columns, classes, first, last):
        row, bottom = top, top + probs.shape[1]
        while row < bottom:
            end = min(row + PIECE, bottom, (row // task.strips.rows + 1) * task.strips.rows)
            valid, fact = measure(task.stack, (slice(row, end), slice(0, task.columns.extent)))
            yield row, make_maps(probs[:, row - top : end - top], valid, task.strips.maps), fact
            row = end


def predict_tiles(model: Model, task: Task, windows: Sequence[Window]) -> Iterator[tuple[Window, NDArray[np.float32]]]:
    """Probabilities `(C, h, w)` of windows of one size, several at once; those without a valid pixel are left out."""
    settings = model.card.inference
    whole = model.with_inference(Inference(precision=settings.precision, flip=settings.flip, scales=settings.scales))
    for part in even_parts(len(windows), images_per_forward((task.rows.side, task.columns.side), model.device)):
        found = [(window, *task.stack.read(window)) for window in windows[part]]
        images = [(window, task.scaling(values, valid)) for window, values, valid in found if valid.any()]
        if images:
            batch = torch.from_numpy(np.stack([image for _, image in images]))
            probs = whole.batch_probs(batch).cpu().numpy()
            check_finite(probs, "the scene")
            yield from zip((window for window, _ in images), probs, strict=True)


def measure(stack: Stack, window: Window) -> tuple[NDArray[np.bool_], list[Any]]:
    """Where a window is valid `(h, w)`, how many pixels that are, and the sum of each band there, unscaled."""
    values, valid = stack.read(window)
    # Without `where` the sum takes a third of the time.
    how: dict[str, Any] = {} if valid.all() else {"where": valid}
    return valid, [int(valid.sum()), values.sum((1, 2), np.float64, **how).tolist()]


def make_maps(probs: NDArray[np.float32], valid: NDArray[np.bool_], names: Collection[str]) -> dict[str, NDArray[Any]]:
    """The maps `(bands, h, W)` of some rows.

    Args:
        probs: `(C, h, W)`.
        valid: `(h, W)`; other pixels get no class, and NaN in other maps.
        names: subset of classes, confidence (the largest probability), probs and entropy.
    """
    confidence, classes = (tensor.numpy() for tensor in torch.from_numpy(probs).max(0))
    maps: dict[str, Any] = {"classes": np.where(valid, classes, NO_CLASS).astype(np.uint8)[None]}
    if "confidence" in names:
        maps["confidence"] = np.where(valid, confidence, np.nan)[None]
    if "probs" in names:
        maps["probs"] = np.where(valid, probs, np.nan)
    if "entropy" in names:
        maps["entropy"] = np.where(valid, uncertainty(probs), np.nan)[None]
    return maps


def predict_in_processes(model: Model, task: Task, numbers: Sequence[int], processes: int) -> Iterator[int]:
    """`predict_strips` in several processes, each with neighboring strips; on several GPUs where the network is on one.

    Raises:
        DataError: a process died, or could not read a file. Its finished work is kept.
        OSError: a process could not write a file.
        FarclussError: the network cannot be built in another process.
    """
    context = torch.multiprocessing.get_context("spawn")
    weights = []
    for number, one in enumerate(members(model)):
        weights.append(task.strips.folder / f"weights-{number}.safetensors")
        save_weights(weights[-1], one.network, one.card)
    threads = max(1, torch.get_num_threads() // processes)
    ends: dict[Any, Any] = {}  # processes by the receiving end of their pipe
    try:
        for rank, part in enumerate(even_parts(len(numbers), min(processes, len(numbers)))):
            receiver, sender = Pipe(duplex=False)
            device = f"cuda:{rank % torch.cuda.device_count()}" if model.device.type == "cuda" else str(model.device)
            arguments = (sender, weights, device, threads, task, list(numbers[part]))
            ends[receiver] = context.Process(target=_work, args=arguments, daemon=True)
            ends[receiver].start()
            sender.close()
        while ends:
            for end in wait(list(ends)):
                yield from _receive(end, ends)
    finally:
        for process in ends.values():
            process.terminate()
            process.join()


def _receive(receiver: Any, ends: dict[Any, Any]) -> Iterator[int]:
    """One message of a process: finished rows, its error, or its end."""
    try:
        message = receiver.recv()
    except EOFError:
        process = ends.pop(receiver)
        process.join()
        if process.exitcode:
            raise DataError(
                f"A process of the prediction died with exit code {process.exitcode}, perhaps because memory ran out.\n"
                "Run the command again, perhaps with a lower --set processes: finished work is kept."
            ) from None
        return
    if isinstance(message, FarclussError | OSError):
        raise message
    yield message


def end_with_parent() -> None:
    """Exit when the parent process is gone: if it was killed, it cannot stop this one."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(
    sender: Connection, weights: Sequence[Path], device: str, threads: int, task: Task, numbers: list[int]
) -> None:
    """The main function of each process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process stops this one
    Thread(target=end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    try:
        for height in predict_strips(load_together(weights, device), task, numbers):
            sender.send(height)
    except (FarclussError, OSError) as error:
        sender.send(error)

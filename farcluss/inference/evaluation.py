"""Scores from one confusion matrix over all pixels of all images: the field's mIoU, not a mean over images."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from farcluss.data.base import IGNORE, Dataset, Item, Sample, read_sample
from farcluss.data.loader import Diary, guarded, start_worker
from farcluss.errors import Cancelled, FarclussError, SampleError
from farcluss.inference.probs import CPU_PIXELS, images_per_forward
from farcluss.tensors.distributed import all_sum

if TYPE_CHECKING:
    from farcluss.inference.weights import Model

T = TypeVar("T")
R = TypeVar("R")
THREADS = 16
"""Small images that are scored at once on a CPU, at most."""
HELD, HELD_SCENES = 2**24, 128
"""Pixels and number of images that wait for others of their size, at most; each may hold two file descriptors open."""


def confusion_matrix(predicted: Tensor, masks: Tensor, classes: int) -> Tensor:
    """Numbers of pixels by true class (row) and predicted class (column).

    Args:
        predicted: `(...)` integer, class index.
        masks: `(...)` integer, class index or `IGNORE`.
        classes: C, below `IGNORE`.

    Returns:
        `(C, C)` int64, on the device of `predicted`.
    """
    # Ignored pixels fall in the last of 256 rows, which is left out. Selecting the others would make the host wait for
    # a GPU, and so would a bincount, which asks for its largest value.
    pairs = (masks.int() * classes + predicted.int()).flatten()
    counts = torch.zeros((IGNORE + 1) * classes, dtype=torch.int64, device=pairs.device)
    return counts.index_add_(0, pairs, torch.ones_like(pairs, dtype=torch.int64)).view(-1, classes)[:classes]


@dataclass(frozen=True)
class Scores:
    """Scores of a confusion matrix `(C, C)`; a class that is neither true nor predicted anywhere is absent (NaN)."""

    confusion: NDArray[np.int64]
    classes: tuple[str, ...]

    def _share(self, over: NDArray[np.int64], factor: int = 1) -> NDArray[np.float64]:
        hits = np.diag(self.confusion)
        return np.asarray(np.divide(factor * hits, over, out=np.full(len(hits), np.nan), where=over > 0))

    @property
    def _true(self) -> NDArray[np.int64]:
        return np.asarray(self.confusion.sum(1))

    @property
    def _predicted(self) -> NDArray[np.int64]:
        return np.asarray(self.confusion.sum(0))

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union per class."""
        return self._share(self._true + self._predicted - np.diag(self.confusion))

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Share of a class's true pixels that are found; NaN where it has none."""
        return self._share(self._true)

    @property
    def dice(self) -> NDArray[np.float64]:
        """Dice coefficient (F1) per class."""
        return self._share(self._true + self._predicted, 2)

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that are not absent."""
        return float(np.nanmean(self.iou)) if self.confusion.any() else float("nan")

    @property
    def pixel_accuracy(self) -> float:
        """Share of pixels that are right."""
        total = int(self.confusion.sum())
        return float(np.trace(self.confusion) / total) if total else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Everything as plain numbers; what no pixel decides is None, such as absent classes."""

        def plain(values: Iterable[float]) -> list[float | None]:
            return [None if np.isnan(value) else float(value) for value in values]

        miou, pixel_accuracy = plain([self.miou, self.pixel_accuracy])

        rows = zip(self.classes, plain(self.iou), plain(self.accuracy), plain(self.dice), self._true, strict=True)
        return {
            "miou": miou,
            "pixel_accuracy": pixel_accuracy,
            "classes": [
                {"class": name, "iou": iou, "accuracy": accuracy, "dice": dice, "pixels": int(pixels)}
                for name, iou, accuracy, dice, pixels in rows
            ],
            "confusion": self.confusion.tolist(),
        }


@dataclass(frozen=True)
class WholeImages:
    """Map-style data set of whole images; an error travels as a value."""

    dataset: Dataset
    items: Sequence[Item]
    diary: Diary

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Item, Sample | FarclussError]:
        try:
            with self.diary.reading(0, index):
                return self.items[index], read_sample(self.dataset, self.items[index])
        except FarclussError as error:
            return self.items[index], error


def read_images(
    dataset: Dataset,
    items: Sequence[Item],
    workers: int,
    convert: Callable[[Any], Any] | None = None,
    pin_memory: bool = False,
) -> Generator[tuple[Item, Any], None, None]:
    """Whole images in order, decoded by `workers` processes; close it, as `farcluss.data.loader.guarded`.

    Args:
        dataset: reads them.
        items: which.
        workers: loader processes.
        convert: what a loader process makes of an item and its `Sample` or error; None leaves them as they are.
        pin_memory: put tensors where a GPU can fetch them.
    """
    processes = min(workers, len(items))
    source: Any = WholeImages(dataset, items, Diary(processes))
    loader: DataLoader[Any] = DataLoader(
        source,
        batch_size=None,
        num_workers=processes,
        collate_fn=convert or _as_is,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
    )
    yield from guarded(loader, source.diary, lambda _, index: items[index].image)


def _as_is(sample: Any) -> Any:
    return sample


class Scene(NamedTuple):
    """An image `(Cin, *S)`, uint8 or float in [0, 1], and its mask `(*S)` uint8, `IGNORE` where pixels do not count."""

    image: Tensor
    mask: Tensor


def to_scene(read: tuple[Item, Sample | FarclussError]) -> tuple[Item, Scene | FarclussError]:
    """What is scored of an item that has been read; an error travels as a value."""
    item, sample = read
    if isinstance(sample, FarclussError):
        return item, sample
    if sample.mask is None:
        return item, SampleError(f"{item.image} has no mask, so it cannot be scored.")
    return item, Scene(*(torch.from_numpy(np.ascontiguousarray(array)) for array in (sample.image, sample.mask)))


def same_sizes(scenes: Iterable[Scene], device: torch.device) -> Iterator[list[Scene]]:
    """Scenes in groups of one size, as many as go through a network together on `device`; not in order."""
    held: dict[Any, list[Scene]] = {}
    pixels = 0
    for scene in scenes:
        key = scene.image.shape, scene.image.dtype
        held.setdefault(key, []).append(scene)
        pixels += scene.mask.numel()
        if len(held[key]) < images_per_forward(scene.mask.shape, device):
            if pixels <= HELD and sum(map(len, held.values())) <= HELD_SCENES:
                continue
            key = max(held, key=lambda each: _pixels(held[each]))
        pixels -= _pixels(held[key])
        yield held.pop(key)
    yield from held.values()


def _pixels(group: list[Scene]) -> int:
    return sum(scene.mask.numel() for scene in group)


def evaluate(model: "Model", dataset: Dataset, items: Sequence[Item], **options: Any) -> Scores:
    """Score a model on `items`, each counted once whatever the number of processes; see `evaluate_all`."""
    return evaluate_all([model], dataset, items, **options)[0]


def evaluate_all(
    models: Sequence["Model"],
    dataset: Dataset,
    items: Sequence[Item],
    *,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    cancelled: Callable[[], bool] = lambda: False,
) -> list[Scores]:
    """Score several models on `items` in one pass, each image counted once whatever the number of processes.

    Images of one size go through a network together. A network treats each of them by itself, so this does not change
    what is predicted, except where two classes are equal up to rounding.

    Args:
        models: of the same classes, on one device; they predict at the images' own size.
        dataset: reads them.
        items: with masks.
        workers: loader processes.
        rank: of this process; it takes every `world`-th item.
        world: number of processes; all must call this.
        cancelled: asked before each image and each forward whether to give up.

    Returns:
        One for each model.

    Raises:
        SampleError: an image cannot be read, has no mask, or a mask of another size.
        Cancelled: any process has given up; on all of them.
    """
    classes, device = len(models[0].classes), models[0].device
    counts = torch.zeros(len(models), classes, classes, dtype=torch.int64, device=device)
    left = torch.zeros(1, dtype=torch.int64, device=device)
    with closing(read_images(dataset, items[rank::world], workers, to_scene, device.type == "cuda")) as samples:
        try:
            with ExitStack() as stack:
                for model in models:
                    stack.enter_context(model.evaluating())
                groups = same_sizes(_arriving(samples, cancelled), device)
                most = CPU_PIXELS if device.type == "cpu" else 0
                count = partial(_count, models, cancelled=cancelled)
                for found in spread(count, groups, lambda group: _pixels(group) <= most):
                    counts += found
        except Cancelled:
            left += 1
    totals = all_sum(torch.cat([counts.flatten(), left])).cpu().numpy()
    _give_up_if(lambda: bool(totals[-1]))
    tables = totals[:-1].reshape(counts.shape)
    return [Scores(table, tuple(model.classes)) for table, model in zip(tables, models, strict=True)]


def _count(models: Sequence["Model"], group: list[Scene], cancelled: Callable[[], bool]) -> Tensor:
    """Confusion matrices `(M, C, C)` of each model on scenes of one size. Raises Cancelled when told to."""
    device, classes = models[0].device, len(models[0].classes)
    parts = zip(*group, strict=True)
    images, masks = (torch.stack([each.to(device, non_blocking=True) for each in part]) for part in parts)
    tables = []
    for model in models:
        _give_up_if(cancelled)
        tables.append(confusion_matrix(model.classify(images), masks, classes))
    return torch.stack(tables)


def spread(function: Callable[[T], R], things: Iterable[T], small: Callable[[T], bool]) -> Iterator[R]:
    """`function` of each thing, in order; of small ones in as many threads as PyTorch has, with one core each.

    Small images use a processor better than the parts of one do, as small convolutions gain little by a second core.
    Large ones gain much, and several at once would not fit the memory.
    """
    threads = min(torch.get_num_threads(), THREADS)
    pool = ThreadPoolExecutor(threads, initializer=_use_one_core)
    pending: deque[Future[R]] = deque()
    try:
        for thing in things:
            together = threads > 1 and small(thing)
            while pending and not (together and len(pending) <= threads):
                yield pending.popleft().result()
            if together:
                pending.append(pool.submit(function, thing))
            else:
                yield function(thing)
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(torch.get_num_threads())  # those of this thread, for all that come later


def _use_one_core() -> None:
    torch.set_num_threads(1)


def _arriving(samples: Iterable[tuple[Item, Any]], cancelled: Callable[[], bool]) -> Iterator[Scene]:
    """Scenes as they are read. Raises SampleError at the first that cannot be scored, Cancelled when told to."""
    for _, scene in samples:
        _give_up_if(cancelled)
        if isinstance(scene, FarclussError):
            raise SampleError(str(scene)) from scene
        yield scene


def _give_up_if(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise Cancelled("The evaluation was cancelled.")

"""Evaluation by one confusion matrix over the pixels of all images, as usual for mIoU, not per image."""

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
from farcluss.data.loader import Diary, guarded, loader_processes, start_worker
from farcluss.errors import FAILURES, Cancelled, FarclussError, SampleError
from farcluss.inference.probs import BROKEN, CPU_PIXELS, images_per_forward, not_finite
from farcluss.tensors.distributed import all_sum

if TYPE_CHECKING:
    from farcluss.inference.weights import Model

T = TypeVar("T")
R = TypeVar("R")
OnError = Callable[[Item, BaseException], None]
"""Called with an image that cannot be scored and why; from any thread."""
OnImage = Callable[[int, Item, NDArray[np.int64]], None]
"""Called with the index of a model, an image, and its confusion matrix `(C, C)`; from any thread."""
NO_PIXELS = torch.zeros((), dtype=torch.int64)
"""What an image adds that cannot be scored; on the CPU, as a tensor without axes may be added on any device."""
THREADS = 16
"""Most small images evaluated at once on a CPU."""
HELD, HELD_IMAGES = 2**24, 128
"""Most pixels and images that wait for others of their size; each image may hold two file descriptors open."""


def confusion_matrix(predicted: Tensor, masks: Tensor, classes: int) -> Tensor:
    """Pixel counts by true class (row) and predicted class (column).

    Args:
        predicted: `(...)` integer, class index, or `BROKEN`.
        masks: `(...)` integer, class index or `IGNORE`.
        classes: C, below `IGNORE`.

    Returns:
        `(C, C)` int64, on the device of `predicted`.
    """
    masks = masks.where(predicted != BROKEN, IGNORE)
    # Ignored pixels fall in the last of 256 rows, which is dropped. Selecting the others would make the host wait for
    # a GPU, and so would a bincount, which reads the largest value.
    pairs = (masks.int() * classes + predicted.int()).flatten()
    counts = torch.zeros((IGNORE + 1) * classes, dtype=torch.int64, device=pairs.device)
    return counts.index_add_(0, pairs, torch.ones_like(pairs, dtype=torch.int64)).view(-1, classes)[:classes]


@dataclass(frozen=True)
class Scores:
    """Scores of a confusion matrix `(C, C)`; a class that is neither true nor predicted anywhere is absent (NaN).

    Attributes:
        broken: pixels at which the network's output is not finite; if there are any, all classes are absent.
    """

    confusion: NDArray[np.int64]
    classes: tuple[str, ...]
    broken: int = 0

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
        """Share of a class's true pixels that are predicted correctly (recall); NaN where it has none."""
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
        """Share of pixels that are predicted correctly."""
        total = int(self.confusion.sum())
        return float(np.trace(self.confusion) / total) if total else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Everything as plain numbers; None for undefined scores, such as those of absent classes."""

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
    """Map-style data set of whole images; errors are returned as values."""

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
    """Whole images in order, decoded by `workers` processes; close it, like `farcluss.data.loader.guarded`.

    Args:
        dataset: the data set.
        items: the items to read.
        workers: loader processes.
        convert: applied by a loader process to each item and its `Sample` or error; None for nothing.
        pin_memory: return tensors in pinned memory.
    """
    processes = min(loader_processes(workers), len(items))
    source: Any = WholeImages(dataset, items, Diary(processes))
    loader: DataLoader[Any] = DataLoader(
        source,
        batch_size=None,
        num_workers=processes,
        collate_fn=convert or _identity,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
    )
    yield from guarded(loader, source.diary, lambda _, index: items[index].image)


def _identity(sample: Any) -> Any:
    return sample


class LabeledImage(NamedTuple):
    """An image `(Cin, *S)`, uint8 or float, and its mask `(*S)` uint8, `IGNORE` at ignored pixels."""

    image: Tensor
    mask: Tensor


def to_labeled_image(read: tuple[Item, Sample | FarclussError]) -> tuple[Item, LabeledImage | FarclussError]:
    """The image and mask of an item that has been read; errors are returned as values."""
    item, sample = read
    if isinstance(sample, FarclussError):
        return item, sample
    if sample.mask is None:
        return item, SampleError(f"{item.image} has no mask, so it cannot be evaluated.")
    arrays = (sample.image, sample.mask)
    return item, LabeledImage(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))


Read = tuple[Item, LabeledImage]


def group_by_size(images: Iterable[Read], device: torch.device) -> Iterator[list[Read]]:
    """Group images by size, as many as `images_per_forward` allows on `device`; not in order."""
    held: dict[Any, list[Read]] = {}
    pixels = 0
    for item, each in images:
        key = each.image.shape, each.image.dtype
        held.setdefault(key, []).append((item, each))
        pixels += each.mask.numel()
        if len(held[key]) < images_per_forward(each.mask.shape, device):
            if pixels <= HELD and sum(map(len, held.values())) <= HELD_IMAGES:
                continue
            key = max(held, key=lambda size: _pixels(held[size]))
        pixels -= _pixels(held[key])
        yield held.pop(key)
    yield from held.values()


def _pixels(group: list[Read]) -> int:
    return sum(each.mask.numel() for _, each in group)


def evaluate(model: "Model", dataset: Dataset, items: Sequence[Item], **options: Any) -> Scores:
    """Evaluate a model on `items`, each counted once for any number of processes; see `evaluate_all`.

    Raises:
        SampleError, Cancelled: see `evaluate_all`.
        WeightsError: the network's output is not finite.
    """
    scores = evaluate_all([model], dataset, items, **options)[0]
    if scores.broken:
        raise not_finite(f"{scores.broken:,} pixels")
    return scores


def evaluate_all(
    models: Sequence["Model"],
    dataset: Dataset,
    items: Sequence[Item],
    *,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    cancelled: Callable[[], bool] = lambda: False,
    on_error: OnError | None = None,
    on_image: OnImage | None = None,
) -> list[Scores]:
    """Evaluate several models on `items` in one pass, each image counted once for any number of processes.

    Images of one size are batched. Networks predict each image independently, so this changes a prediction only where
    two classes are equal up to rounding.

    Args:
        models: models with the same classes, on one device; they predict at the images' own size.
        dataset: the data set.
        items: items with masks.
        workers: loader processes.
        rank: rank of this process, which evaluates every `world`-th item.
        world: number of processes; all must call this.
        cancelled: called before each image and each forward; True cancels the evaluation.
        on_error: called for each image that cannot be read or predicted, which is then left out; None to raise.
        on_image: called for each image of this process that is scored.

    Returns:
        The scores of each model.

    Raises:
        SampleError: without `on_error`, an image that cannot be read, has no mask, or a mask of another size.
        Cancelled: `cancelled` returned True on any process; raised on all.
    """
    classes, device = len(models[0].classes), models[0].device
    counts = torch.zeros(len(models), classes**2 + 1, dtype=torch.int64, device=device)
    cancellations = torch.zeros(1, dtype=torch.int64, device=device)
    with closing(read_images(dataset, items[rank::world], workers, to_labeled_image, device.type == "cuda")) as samples:
        try:
            with ExitStack() as stack:
                for model in models:
                    stack.enter_context(model.evaluating())
                groups = group_by_size(_check_samples(samples, cancelled, on_error), device)
                small = CPU_PIXELS if device.type == "cpu" else 0
                count = partial(_count_each, models, cancelled=cancelled, on_error=on_error, on_image=on_image)
                for found in map_threaded(count, groups, lambda group: _pixels(group) <= small):
                    counts += found
        except Cancelled:
            cancellations += 1
    totals = all_sum(torch.cat([counts.flatten(), cancellations])).cpu().numpy()
    _raise_if(lambda: bool(totals[-1]))
    tables = totals[:-1].reshape(counts.shape)
    return [_scores(table, tuple(model.classes)) for table, model in zip(tables, models, strict=True)]


def _scores(counts: NDArray[np.int64], classes: tuple[str, ...]) -> Scores:
    """Scores of a flat confusion matrix with the broken pixels behind it."""
    broken = int(counts[-1])
    return Scores(counts[:-1].reshape(len(classes), -1) * (not broken), classes, broken)


def _count_each(
    models: Sequence["Model"],
    group: list[Read],
    cancelled: Callable[[], bool],
    on_error: OnError | None,
    on_image: OnImage | None,
) -> Tensor:
    """`_count`; of a group that fails, the images one by one, so that only those that fail themselves are left out."""
    try:
        return _count(models, group, cancelled, on_image)
    except Cancelled:
        raise
    except FAILURES as error:
        if on_error is None:
            raise
        if len(group) == 1:
            on_error(group[0][0], error)
            return NO_PIXELS
    return sum((_count_each(models, [each], cancelled, on_error, on_image) for each in group), NO_PIXELS)


def _count(
    models: Sequence["Model"], group: list[Read], cancelled: Callable[[], bool], on_image: OnImage | None
) -> Tensor:
    """Confusion matrix and broken pixels `(M, C * C + 1)` of each model on images of one size. Raises Cancelled."""
    device, classes = models[0].device, len(models[0].classes)
    parts = zip(*(image for _, image in group), strict=True)
    images, masks = (torch.stack([each.to(device, non_blocking=True) for each in part]) for part in parts)
    tables, seen = [], []
    for model in models:
        _raise_if(cancelled)
        predicted = model.classify(images)
        if on_image is None:
            matrix = confusion_matrix(predicted, masks, classes)
        else:
            seen.append([confusion_matrix(*each, classes) for each in zip(predicted, masks, strict=True)])
            matrix = torch.stack(seen[-1]).sum(0)
        tables.append(torch.cat([matrix.flatten(), (predicted == BROKEN).sum().view(1)]))
    for index, matrices in enumerate(seen):  # only now, as a group that fails is counted again
        for (item, _), each in zip(group, matrices, strict=True):
            on_image(index, item, each.cpu().numpy())  # type: ignore[misc] # there are none without it
    return torch.stack(tables)


def map_threaded(function: Callable[[T], R], elements: Iterable[T], small: Callable[[T], bool]) -> Iterator[R]:
    """`function` of each element, in order; small ones in parallel, in as many one-core threads as PyTorch has.

    Small convolutions gain little from a second core, so small images are processed side by side. Large ones gain much,
    and several at once would not fit into memory.
    """
    threads = min(torch.get_num_threads(), THREADS)
    pool = ThreadPoolExecutor(threads, initializer=_use_one_core)
    pending: deque[Future[R]] = deque()
    try:
        for element in elements:
            parallel = threads > 1 and small(element)
            while pending and not (parallel and len(pending) <= threads):
                yield pending.popleft().result()
            if parallel:
                pending.append(pool.submit(function, element))
            else:
                yield function(element)
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(torch.get_num_threads())  # for threads started later


def _use_one_core() -> None:
    torch.set_num_threads(1)


def _check_samples(
    samples: Iterable[tuple[Item, Any]], cancelled: Callable[[], bool], on_error: OnError | None
) -> Iterator[Read]:
    """The images read. Raises Cancelled, and without `on_error` SampleError at the first that cannot be evaluated."""
    for item, found in samples:
        _raise_if(cancelled)
        if not isinstance(found, FarclussError):
            yield item, found
        elif on_error is None:
            raise SampleError(str(found)) from found
        else:
            on_error(item, found)


def _raise_if(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise Cancelled("The evaluation was cancelled.")

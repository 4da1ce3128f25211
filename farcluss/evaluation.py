"""Scores from one confusion matrix over all pixels of all images: the field's mIoU, not a mean over images."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from farcluss.data.base import IGNORE, Dataset, Item, Sample, read_sample
from farcluss.data.loader import Diary, guarded, start_worker
from farcluss.distributed import all_sum
from farcluss.errors import Cancelled, FarclussError, SampleError

if TYPE_CHECKING:
    from farcluss.weights import Model


def confusion_matrix(predicted: Tensor, masks: Tensor, classes: int) -> Tensor:
    """Numbers of pixels by true class (row) and predicted class (column).

    Args:
        predicted: `(...)` integer, class index.
        masks: `(...)` integer, class index or `IGNORE`.
        classes: C.

    Returns:
        `(C, C)` int64, on the device of `predicted`.
    """
    valid = masks != IGNORE
    pairs = masks[valid].long() * classes + predicted[valid].long()
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


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
    dataset: Dataset, items: Sequence[Item], workers: int
) -> Generator[tuple[Item, Sample | FarclussError], None, None]:
    """Whole images in order, decoded by `workers` processes; close it, as `farcluss.data.loader.guarded`."""
    processes = min(workers, len(items))
    source: Any = WholeImages(dataset, items, Diary(processes))
    loader: DataLoader[Any] = DataLoader(
        source, batch_size=None, num_workers=processes, collate_fn=_as_is, worker_init_fn=start_worker
    )
    yield from guarded(loader, source.diary, lambda _, index: items[index].image)


def _as_is(sample: Any) -> Any:
    return sample


def evaluate(
    model: "Model",
    dataset: Dataset,
    items: Sequence[Item],
    *,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    cancelled: Callable[[], bool] = lambda: False,
) -> Scores:
    """Score a model on `items`, each counted once whatever the number of processes.

    Args:
        model: predicts at the images' own size.
        dataset: reads them.
        items: with masks.
        workers: loader processes.
        rank: of this process; it takes every `world`-th item.
        world: number of processes; all must call this.
        cancelled: asked before each image whether to give up.

    Raises:
        SampleError: an image cannot be read, has no mask, or a mask of another size.
        Cancelled: any process has given up; on all of them.
    """
    classes = len(model.classes)
    confusion = torch.zeros(classes, classes, dtype=torch.int64, device=model.device)
    left = torch.zeros((), dtype=torch.int64, device=model.device)
    with closing(read_images(dataset, items[rank::world], workers)) as samples:
        for item, sample in samples:
            if cancelled():
                left += 1
                break
            if isinstance(sample, FarclussError):
                raise SampleError(str(sample)) from sample
            truth = _truth(item, sample).to(model.device)
            confusion += confusion_matrix(model.probs(sample.image).argmax(0), truth, classes)
    counts = all_sum(torch.cat([confusion.flatten(), left.view(1)])).cpu().numpy()
    if counts[-1]:
        raise Cancelled("The evaluation was cancelled.")
    return Scores(counts[:-1].reshape(classes, classes), tuple(model.classes))


def _truth(item: Item, sample: Sample) -> Tensor:
    """The mask of an item as a tensor, `IGNORE` where its pixels are not valid. Raises SampleError without one."""
    if sample.mask is None:
        raise SampleError(f"{item.image} has no mask, so it cannot be scored.")
    truth = torch.from_numpy(np.ascontiguousarray(sample.mask))
    return truth if sample.valid is None else truth.where(torch.from_numpy(sample.valid), IGNORE)

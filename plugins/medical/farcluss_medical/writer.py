"""Predictions as NIfTI files on the grid of the input scan."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from farcluss.errors import DataError, WeightsError
from farcluss.runs.atomic import write_atomically
from farcluss_medical.cases import stem
from farcluss_medical.preprocessing import Preprocessing
from farcluss_medical.volumes import HDF5, Header, Orientation, read_image

if TYPE_CHECKING:
    from torch import Tensor

    from farcluss.inference.card import Card
    from farcluss.inference.weights import Model

NOTICE = "Research use only; not for diagnosis."
CHANNEL = re.compile(r"(.+)_(\d{4})")
"""Name of a file with one channel of a case, as in nnU-Net."""


class NiftiWriter:
    """Label volumes with the values of the training labels, as NIfTI on the input's own grid.

    For a case it writes `CASE.nii.gz`, whose affine, codes, zooms and units are those of the input, and `CASE.json`,
    which records how it was made. Files that end in the layout's modalities are the channels of a case; if none does,
    those named `CASE_0000`, `CASE_0001` and so on (numbers that do not begin with 0000 count cases). HDF5 files have
    no position: their predictions have origin 0 and voxels of 1 mm.

    Args:
        probs: also write the probabilities, float32, classes along the fourth axis, as `CASE_probs.nii.gz`.
        entropy: also write the normalized entropy, 0 to 1, as `CASE_entropy.nii.gz`.
        mirror: average over all flips; takes 8 times as long (4 times for slices).
        largest_component: keep only the largest connected component of each class but the first.
    """

    suffixes = (".nii.gz", ".nii", *HDF5)

    def __init__(
        self,
        card: "Card",
        *,
        probs: bool = False,
        entropy: bool = False,
        mirror: bool = False,
        largest_component: bool = False,
    ) -> None:
        self.probs, self.entropy, self.mirror, self.largest_component = probs, entropy, mirror, largest_component
        try:
            data = card.recipe["data"]
            layout = data["layout"]
            self.values = [values[0] for values in data["classes"].values()]
            spacing = layout["spacing"] and tuple(layout["spacing"])
            self.preprocessing = Preprocessing(layout.get("normalize", "zscore"), spacing, tuple(layout["fingerprint"]))
            self.slice_axis = layout["slice_axis"] if layout.get("dimensions", 3) == 2 else None
            self.modalities: list[str] = layout.get("modalities", [])
        except (KeyError, TypeError, AttributeError, IndexError):
            raise WeightsError(
                "These weights were not trained on a layout of volumes: they do not say how to preprocess a scan.\n"
                "Choose another --writer."
            ) from None

    def cases(self, files: Sequence[Path]) -> list[tuple[str, tuple[Path, ...]]]:
        """The files of a folder by case: channels in their order, without label files in the same folder."""
        found: dict[str, dict[int, Path]] = {}
        for path in files:
            if place := self._by_modality(stem(path)):
                found.setdefault(place[0], {})[place[1]] = path
        return _ordered(found) if found else by_number(files)

    def _by_modality(self, text: str) -> tuple[str, int] | None:
        """Case and channel of a file's name; None if it names no modality."""
        for channel, modality in enumerate(self.modalities):
            if text.endswith((f"_{modality}", f"-{modality}")):
                return text[: -len(modality) - 1], channel
        return None

    def outputs(self, target: Path) -> list[Path]:
        """The files that `predict` makes for `target`, a path without extension."""
        extras = {"_probs.nii.gz": self.probs, "_entropy.nii.gz": self.entropy}
        ends = (".nii.gz", ".json", *(end for end, on in extras.items() if on))
        return [target.with_name(target.name + end) for end in ends]

    def predict(self, model: "Model", files: tuple[Path, ...], target: Path) -> None:
        """Predict one case and write it. Raises DataError, WeightsError."""
        from farcluss_medical.inference import classes_on_grid, on_grid, predict_volume

        names = tuple(map(str, files))
        volume = read_image(names)
        header = Header(volume.voxels.shape[1:], len(volume.voxels), volume.affine)
        if header.channels != model.card.channels:
            advice = "\nFiles named CASE_0000, CASE_0001, ... are the channels of one case." if len(names) > 1 else ""
            raise DataError(
                f"{', '.join(names)}: {header.channels} channels, but the network takes {model.card.channels}.{advice}"
            )
        image = self.preprocessing.image(volume)
        del volume  # it may be half of the memory in use
        probs = predict_volume(model, image, self.slice_axis, self.mirror)
        orientation = Orientation.of(header)
        classes = classes_on_grid(probs, orientation.size())
        if self.largest_component:
            classes = largest_components(classes, len(self.values))
        template = _template(names[0], header)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            save(template, orientation.undo(self._labels(classes)), self.outputs(target)[0])
            self._write_record(model, names, target)
            if self.probs or self.entropy:
                self._write_maps(template, on_grid(probs, orientation.size()), orientation, target)
        except OSError as error:
            raise DataError(f"{target.parent} cannot be written: {error.strerror}. Choose another --output.") from None

    def _labels(self, classes: NDArray[np.uint8]) -> NDArray[Any]:
        """Class indices as values of the training labels."""
        smallest = np.result_type(*map(np.min_scalar_type, self.values))
        return np.array(self.values, smallest)[classes]

    def _write_maps(self, template: Any, probs: "Tensor", orientation: Orientation, target: Path) -> None:
        from farcluss.stages.weight import normalized_entropy

        if self.probs:
            turned = np.stack([orientation.undo(each.numpy()) for each in probs], axis=-1)
            save(template, turned, target.with_name(f"{target.name}_probs.nii.gz"))
        if self.entropy:
            entropy = normalized_entropy(probs[None])[0].numpy()
            save(template, orientation.undo(entropy), target.with_name(f"{target.name}_entropy.nii.gz"))

    def _write_record(self, model: "Model", files: tuple[str, ...], target: Path) -> None:
        card = model.card
        unused = {"flip", "scales"} if self.slice_axis is None else set()  # volumes have `mirror`
        record = {
            "notice": NOTICE,
            "files": list(files),
            "model": {"source": card.source, "step": card.step, "network": card.network, "versions": card.versions},
            "labels": dict(zip(card.classes, self.values, strict=True)),
            "inference": {**card.inference.model_dump(exclude=unused), "mirror": self.mirror},
            "preprocessing": self.preprocessing.facts(),
            "largest_component": self.largest_component,
        }
        write_atomically(target.with_name(f"{target.name}.json"), json.dumps(record, indent=2).encode())


def by_number(files: Sequence[Path]) -> list[tuple[str, tuple[Path, ...]]]:
    """Files by case, if their names have case and channel as in nnU-Net; else each file is a case."""
    found: dict[str, dict[int, Path]] = {}
    for path in files:
        match = CHANNEL.fullmatch(stem(path))
        name, channel = (match[1], int(match[2])) if match else (stem(path), 0)
        found.setdefault(name, {})[channel] = path
    alone = [path for channels in found.values() if 0 not in channels for path in channels.values()]
    return [*_ordered({name: c for name, c in found.items() if 0 in c}), *((stem(path), (path,)) for path in alone)]


def _ordered(cases: Mapping[str, Mapping[int, Path]]) -> list[tuple[str, tuple[Path, ...]]]:
    return [(name, tuple(path for _, path in sorted(channels.items()))) for name, channels in cases.items()]


def _template(path: str, header: Header) -> Any:
    """An image with the header for predictions: the scan's, or a default one if the format has none."""
    return nib.Nifti1Image(np.zeros(header.shape, np.uint8), header.affine) if path.endswith(HDF5) else nib.load(path)


def save(template: Any, array: NDArray[Any], path: Path) -> None:
    """Write an array on the grid of `template`, keeping its header except the fields that describe values."""
    header = template.header.copy()
    header.set_data_dtype(array.dtype)
    header["scl_slope"], header["scl_inter"], header["cal_min"], header["cal_max"] = 1, 0, 0, 0
    kind: Any = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    image = kind(array, None, header)
    temporary = path.with_name(f".{path.name}.part.nii.gz")
    try:
        nib.save(image, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def largest_components(classes: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Classes `(*S)` with only the largest component (face connectivity) of each class but the first."""
    from scipy.ndimage import label

    kept = np.zeros_like(classes)
    for index in range(1, count):
        parts, found = label(classes == index)
        if found:
            sizes = np.bincount(parts.ravel())
            kept[parts == 1 + int(np.argmax(sizes[1:]))] = index
    return kept

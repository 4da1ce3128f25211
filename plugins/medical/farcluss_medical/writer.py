"""Predictions as NIfTI files on the grid of the input scan."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import IGNORE
from farcluss.errors import DataError, RecipeError, WeightsError
from farcluss.runs.atomic import unwritable, write_atomically
from farcluss_medical.cases import stem, volumes_in
from farcluss_medical.itk import DICOM, is_dicom, is_itk, simple_itk
from farcluss_medical.preprocessing import Preprocessing
from farcluss_medical.viewers import draw_case, itksnap_labels, slicer_colors
from farcluss_medical.volumes import (
    SUFFIXES,
    Header,
    Orientation,
    has_label,
    is_hdf5,
    is_nibabel,
    read_header,
    read_image,
    read_label,
)

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
    which records how it was made. Scans in other formats get NIfTI files too, with the affine that was used. Files that
    end in the layout's modalities are the channels of a case; if none does,
    those named `CASE_0000`, `CASE_0001` and so on (numbers that do not begin with 0000 count cases). HDF5 files have
    no position: their predictions have origin 0 and voxels of 1 mm.

    Args:
        probs: also write the probabilities, float32, classes along the fourth axis, as `CASE_probs.nii.gz`.
        entropy: also write the normalized entropy, 0 to 1, as `CASE_entropy.nii.gz`.
        mirror: average over all flips; takes 8 times as long (4 times for slices).
        largest_component: keep only the largest connected component of each class but the first.
        overlay: also draw slices of the whole case through its largest predicted structure, as `CASE_overlay.png`.
        truths: folder of labels, named like the cases, that the picture shows too; HDF5 files have their own.
        colors: also write names and colors of the classes, `CASE_labels.txt` for ITK-SNAP and `CASE_labels.ctbl` for
            3D Slicer.
    """

    suffixes = (*(end for end in SUFFIXES if end != ".img"), *DICOM)  # .img has the voxels of a .hdr

    def __init__(
        self,
        card: "Card",
        *,
        probs: bool = False,
        entropy: bool = False,
        mirror: bool = False,
        largest_component: bool = False,
        overlay: bool = False,
        truths: str = "",
        colors: bool = False,
    ) -> None:
        self.probs, self.entropy, self.mirror, self.largest_component = probs, entropy, mirror, largest_component
        self.overlay, self.colors, self.truths = overlay, colors, _truths(truths, overlay)
        try:
            data = card.recipe["data"]
            layout = data["layout"]
            self.sources: list[list[int]] = list(data["classes"].values())
            self.values = [values[0] for values in self.sources]
            spacing = layout["spacing"] and tuple(layout["spacing"])
            self.preprocessing = Preprocessing(
                layout.get("normalize", "zscore"),
                spacing,
                tuple(layout["fingerprint"]),
                layout.get("clip") and tuple(layout["clip"]),
                layout.get("nan") == "zero",
            )
            self.slice_axis = layout["slice_axis"] if layout.get("dimensions", 3) == 2 else None
            self.modalities: list[str] = layout.get("modalities", [])
        except (KeyError, TypeError, AttributeError, IndexError):
            raise WeightsError(
                "These weights were not trained on a layout of volumes: they do not say how to preprocess a scan.\n"
                "Choose another --writer."
            ) from None

    @property
    def preparation(self) -> dict[str, Any]:
        """What is done to a scan before the network, and the meaning of its output."""
        others = {"slice_axis": self.slice_axis, "modalities": self.modalities, "label values": self.sources}
        return {**self.preprocessing.facts(), **others}

    def cases(self, files: Sequence[Path]) -> list[tuple[str, tuple[Path, ...]]]:
        """The files of a folder by case: channels in their order, without label files in the same folder.

        DICOM files together are one case, the folder that they lie in. Raises PluginError if a format needs SimpleITK.
        """
        slices = [path for path in files if is_dicom(path)]
        others = [path for path in files if path not in set(slices)]
        if slices or any(is_itk(str(path)) for path in others):
            simple_itk()
        series = [(folder.name, (folder,)) for folder in {path.resolve().parent for path in slices}]
        return [*series, *self._cases(others)]

    def _cases(self, files: Sequence[Path]) -> list[tuple[str, tuple[Path, ...]]]:
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
        extras = {"_probs.nii.gz": self.probs, "_entropy.nii.gz": self.entropy, "_overlay.png": self.overlay}
        extras |= dict.fromkeys(("_labels.txt", "_labels.ctbl"), self.colors)
        ends = (".nii.gz", ".json", *(end for end, on in extras.items() if on))
        return [target.with_name(target.name + end) for end in ends]

    def predict(self, model: "Model", files: tuple[Path, ...], target: Path) -> None:
        """Predict one case and write it. Raises DataError, WeightsError."""
        from farcluss_medical.inference import classes_on_grid, on_grid, predict_volume

        names = tuple(map(str, files))
        self._refuse_oversized(names[0])
        volume = read_image(names, self.preprocessing.zero_nan)
        header = Header(volume.voxels.shape[1:], len(volume.voxels), volume.affine)
        if header.channels != model.card.channels:
            advice = "\nFiles named CASE_0000, CASE_0001, ... are the channels of one case." if len(names) > 1 else ""
            raise DataError(
                f"{', '.join(names)}: {header.channels} channels, but the network takes {model.card.channels}.{advice}"
            )
        image = self.preprocessing.image(volume)
        orientation = Orientation.of(header)
        shown = orientation.apply(volume.voxels[:1])[0] if self.overlay else None
        del volume  # it may be half of the memory in use
        probs = predict_volume(model, image, self.slice_axis, self.mirror)
        if not math.isfinite(float(probs.sum())):
            raise WeightsError(f"The network's output for {names[0]} is not finite, so there is no prediction.")
        classes = classes_on_grid(probs, orientation.size())
        if self.largest_component:
            classes = largest_components(classes, len(self.values))
        template = _template(names[0], header)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            save(template, orientation.undo(self._labels(classes)), self.outputs(target)[0])
            self._write_record(model, names, target)
            if shown is not None:
                masks = [classes, *self._truth(names[0], header, target.name)]
                picture = draw_case(shown, masks, orientation.spacing(header.affine), model.card.palette)
                write_atomically(target.with_name(f"{target.name}_overlay.png"), picture)
            if self.colors:
                self._write_colors(model, target)
            if self.probs or self.entropy:
                self._write_maps(template, on_grid(probs, orientation.size()), orientation, target)
        except OSError as error:
            raise DataError(unwritable(target.parent, error, "--output")) from None

    def _refuse_oversized(self, path: str) -> None:
        """Raise DataError that names the file when resampling would make the case too large."""
        header = read_header(path)
        try:
            self.preprocessing.size(header)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None

    def _labels(self, classes: NDArray[np.uint8]) -> NDArray[Any]:
        """Class indices as values of the training labels."""
        smallest = np.result_type(*map(np.min_scalar_type, self.values))
        return np.array(self.values, smallest)[classes]

    def _write_maps(self, template: Any, probs: "Tensor", orientation: Orientation, target: Path) -> None:
        from farcluss.tensors.entropy import normalized_entropy

        if self.probs:
            turned = np.stack([orientation.undo(each.numpy()) for each in probs], axis=-1)
            save(template, turned, target.with_name(f"{target.name}_probs.nii.gz"))
        if self.entropy:
            entropy = normalized_entropy(probs[None])[0].numpy()
            save(template, orientation.undo(entropy), target.with_name(f"{target.name}_entropy.nii.gz"))

    def _truth(self, image: str, header: Header, name: str) -> list[NDArray[np.uint8]]:
        """Class indices `(*S)` of the truth in the canonical order; none where it is not known."""
        path = image if is_hdf5(image) else str(self.truths.get(name, ""))
        if not path or (path == image and not has_label(image)):
            return []
        values = Orientation.of(header).apply(read_label(path, image, header)[None])[0]
        classes = np.full(values.shape, IGNORE, np.uint8)
        for index, own in enumerate(self.sources):
            classes[np.isin(values, own)] = index
        return [classes]

    def _write_colors(self, model: "Model", target: Path) -> None:
        for end, form in (("txt", itksnap_labels), ("ctbl", slicer_colors)):
            text = form(model.classes, self.values, model.card.palette)
            write_atomically(target.with_name(f"{target.name}_labels.{end}"), text.encode())

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


def _truths(folder: str, overlay: bool) -> Mapping[str, Path]:
    """The labels of a folder by case. Raises RecipeError."""
    if folder and not overlay:
        raise RecipeError("truths are for the pictures of `overlay`: set overlay = true, or remove truths.")
    if folder and not Path(folder).is_dir():
        raise RecipeError(f"truths = {folder!r} is not a folder.")
    return volumes_in(Path(folder))[0] if folder else {}


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
    """An image with the header for predictions: the scan's, or if that is no NIfTI file one with the affine used."""
    image: Any = nib.load(path) if is_nibabel(path) else None
    if image is not None and isinstance(image.header, nib.Nifti1Header):
        return image
    image = nib.Nifti1Image(np.zeros(header.shape, np.uint8), header.affine)
    image.set_sform(header.affine, "aligned")
    image.set_qform(header.affine, "aligned")
    image.header.set_xyzt_units("mm")
    return image


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

"""The formats by name: data set plugins, and what tells one from another."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farcluss.annotations import coco, coded, cvat, label_studio, labelme, supervisely, via, yolo
from farcluss.annotations.dataset import annotated
from farcluss.data.filesets import FileDataset
from farcluss.data.layouts import root_of
from farcluss.data.searching import search
from farcluss.plugins.sharing import with_options_of
from farcluss.recipes.model import Data


@with_options_of(annotated)
def coco_json(data: Data, *, file: str | None = None, **options: Any) -> FileDataset:
    """COCO JSON: polygons, run lengths and crowds. Needs `pip install 'farcluss[annotations]'`.

    Files in folders `train`, `valid` and `test`, or with these words in their names, are of these splits.

    Args:
        file: the JSON file, relative to `data.root`; default: all below it.
    """
    return annotated(data, coco.read_coco(root_of(data), file), **options)


@with_options_of(annotated)
def labelme_json(data: Data, *, file: str | None = None, **options: Any) -> FileDataset:
    """labelme: a JSON file beside each image, with polygons, rectangles, circles and masks.

    Args:
        file: one JSON file, relative to `data.root`; default: all below it.
    """
    return annotated(data, labelme.read_labelme(root_of(data), file), **options)


@with_options_of(annotated)
def yolo_polygons(data: Data, *, file: str | None = None, **options: Any) -> FileDataset:
    """YOLO polygons: `data.yaml`, and a text file in `labels` for each image in `images`.

    Args:
        file: the YAML file, relative to `data.root`; default: the one below it.
    """
    return annotated(data, yolo.read_yolo(root_of(data), file), **options)


@with_options_of(annotated)
def cvat_xml(data: Data, *, file: str | None = None, **options: Any) -> FileDataset:
    """CVAT for images: an XML file with polygons, boxes, ellipses and masks, by their depth.

    Args:
        file: the XML file, relative to `data.root`; default: all below it.
    """
    return annotated(data, cvat.read_cvat(root_of(data), file), **options)


@with_options_of(annotated)
def label_studio_json(data: Data, *, file: str | None = None, **options: Any) -> FileDataset:
    """Label Studio: a JSON file of tasks, with brushes, polygons, rectangles and ellipses.

    Of several annotations of a task, the ground truth counts, else the last.

    Args:
        file: the JSON file, relative to `data.root`; default: all below it.
    """
    return annotated(data, label_studio.read_label_studio(root_of(data), file), **options)


@with_options_of(annotated)
def label_studio_brushes(data: Data, *, file: str | None = None, **options: Any) -> FileDataset:
    """Label Studio's brushes as PNG files, one for each, beside a JSON file of the tasks, which names the images.

    Args:
        file: the JSON file, relative to `data.root`; default: all below it.
    """
    return annotated(data, label_studio.read_brushes(root_of(data), file), **options)


@with_options_of(annotated)
def via_json(data: Data, *, file: str | None = None, attribute: str | None = None, **options: Any) -> FileDataset:
    """VGG Image Annotator 2: regions as JSON, or its project.

    Args:
        file: the JSON file, relative to `data.root`; default: all below it.
        attribute: of a region, that holds its label; default: the only one.
    """
    return annotated(data, via.read_via(root_of(data), file, attribute), **options)


@with_options_of(annotated)
def supervisely_project(data: Data, *, file: str | None = None, **options: Any) -> FileDataset:
    """Supervisely: `meta.json`, and folders `img` and `ann` for each data set; polygons and bitmaps.

    Args:
        file: the file `meta.json`, relative to `data.root`; default: the one below it.
    """
    return annotated(data, supervisely.read_supervisely(root_of(data), file), **options)


@dataclass(frozen=True)
class Format:
    """A format of exports.

    Attributes:
        layout: name of its data set plugin.
        title: for people.
        fits: whether a file is the sign of such an export.
        endings: of such files.
        drawn: whether areas are drawn, so that `layout.empty` says what an image without any is; else it has masks.
    """

    layout: str
    title: str
    fits: Callable[[Path], bool]
    endings: tuple[str, ...]
    drawn: bool = True


FORMATS = {
    each.layout: each
    for each in (
        Format("coco-json", "COCO JSON", coco.is_coco, (".json",)),
        Format("labelme", "labelme", labelme.is_labelme, (".json",)),
        Format("label-studio", "Label Studio", label_studio.is_label_studio, (".json",)),
        Format("label-studio-png", "Label Studio brushes", label_studio.is_brush, (".png",)),
        Format("via", "VGG Image Annotator", via.is_via, (".json",)),
        Format("supervisely", "Supervisely", supervisely.is_supervisely, (".json",)),
        Format("cvat-xml", "CVAT for images", cvat.is_cvat, (".xml",)),
        Format("cvat-masks", "CVAT segmentation masks", coded.is_cvat_masks, (".txt",), drawn=False),
        Format("yolo", "YOLO polygons", yolo.is_yolo, (".yaml", ".yml")),
        Format("roboflow-masks", "Roboflow masks", coded.is_roboflow, (".csv",), drawn=False),
    )
}


def formats_in(root: Path) -> list[Format]:
    """The formats of which there is an export below a folder."""
    endings = {ending for each in FORMATS.values() for ending in each.endings}
    files = search(root, endings).files

    def fits(each: Format) -> bool:
        return any(each.fits(path) for path in files if path.suffix.lower() in each.endings)

    return [each for each in FORMATS.values() if fits(each)]

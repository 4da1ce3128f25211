"""Writers of drafts: predictions as files that annotation tools open, to be corrected there."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farcluss.annotations.drafts import EACH, JOINT, Draft, regions
from farcluss.data.files import SUFFIXES, read_image
from farcluss.inference.probs import check_finite
from farcluss.inference.writers import Step
from farcluss.plugins.options import Count
from farcluss.plugins.sharing import with_options_of
from farcluss.runs.outputs import write_output

if TYPE_CHECKING:
    from farcluss.inference.card import Card
    from farcluss.inference.weights import Model

YAML = "data.yaml"


class DraftWriter:
    """Writes regions of predictions in the format of a tool; the background is what nothing covers."""

    suffixes = tuple(SUFFIXES)

    def __init__(self, format: str, card: "Card", smallest: int) -> None:
        """Of a format of `farcluss.annotations.drafts`; parts of fewer than `smallest` pixels are left out."""
        self.format, self.classes, self.smallest = format, card.classes, smallest
        self.drafts: list[Draft] = []

    def cases(self, files: Sequence[Path]) -> list[tuple[str, tuple[Path, ...]]]:
        """Each file is a case."""
        return [(path.stem, (path,)) for path in files]

    def outputs(self, target: Path) -> list[Path]:
        """The file of an image; none in formats that have one for all."""
        return [target.with_name(target.name + EACH[self.format][0])] if self.format in EACH else []

    def joint(self, folder: Path) -> list[Path]:
        """The files for all images, in the output folder."""
        names = [JOINT[self.format][0]] if self.format in JOINT else [YAML] if self.format == "yolo" else []
        return [folder / name for name in names]

    def predict(self, model: "Model", files: tuple[Path, ...], target: Path) -> Iterator[Step]:
        """Predict one image, and write its draft or keep it for `finish`. Raises FarclussError that names the file."""
        image = read_image(str(files[0]), model.card.channels)
        probs = model.probs(image).cpu().numpy()
        check_finite(probs, str(files[0]))
        found = regions(probs.argmax(0), probs.max(0), self.classes, self.smallest)
        # labelme opens the image that it finds from its own file; other tools know it by its name.
        own = self.format == "labelme"
        name = Path(os.path.relpath(files[0], target.parent)).as_posix() if own else files[0].name
        draft = Draft(name, (probs.shape[1], probs.shape[2]), found)
        if self.format in EACH:
            write_output(self.outputs(target)[0], EACH[self.format][1](draft).encode())
        else:
            self.drafts.append(draft)
        yield Step(1.0)

    def finish(self, folder: Path) -> None:
        """Write the files for all images. Raises DataError."""
        for path in self.joint(folder):
            write_output(path, self._joint_text().encode())

    def _joint_text(self) -> str:
        if self.format in JOINT:
            return JOINT[self.format][1](self.drafts, self.classes)
        names = "".join(f"  {index}: {name!r}\n" for index, name in enumerate(self.classes))
        return f"path: .\ntrain: images\nnames:\n{names}"


def drafts(format: str, card: "Card", *, smallest: Count = 20) -> DraftWriter:
    """The writer of a format of `farcluss.annotations.drafts`.

    Args:
        format: its name.
        card: of the weights.
        smallest: pixels below which a connected part is left out.
    """
    return DraftWriter(format, card, smallest)


@with_options_of(drafts)
def coco_json(card: "Card", **options: Any) -> DraftWriter:
    """COCO JSON, `annotations.json`: a run-length mask of each connected part, its confidence as `score`."""
    return drafts("coco-json", card, **options)


@with_options_of(drafts)
def labelme(card: "Card", **options: Any) -> DraftWriter:
    """labelme, a JSON file for each image: polygons, or masks where parts have holes; their confidence in words."""
    return drafts("labelme", card, **options)


@with_options_of(drafts)
def yolo(card: "Card", **options: Any) -> DraftWriter:
    """YOLO polygons, a text file for each image, and `data.yaml`; without holes and confidence, which it lacks."""
    return drafts("yolo", card, **options)


@with_options_of(drafts)
def label_studio(card: "Card", **options: Any) -> DraftWriter:
    """Label Studio, `tasks.json`: predictions as brushes, with their confidence as `score`."""
    return drafts("label-studio", card, **options)


@with_options_of(drafts)
def cvat_xml(card: "Card", **options: Any) -> DraftWriter:
    """CVAT for images, `annotations.xml`: a mask of each connected part; the format has no place for its confidence."""
    return drafts("cvat-xml", card, **options)

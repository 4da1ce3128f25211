"""Label Studio: a JSON list of tasks with brushes and polygons, or a PNG for each brush."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from farcluss.annotations.reading import base_name, drawings_in, exports, parse, peek, picture
from farcluss.annotations.shapes import Area, Bitmap, Drawing, Export, Polygon, Shape, ellipse, rectangle
from farcluss.errors import DataError

KIND = "a JSON export of Label Studio"
HASH = re.compile(r"^[0-9a-f]{8}-")
"""What it puts before the names of uploaded files."""
BRUSH = re.compile(r"task-(?P<task>\d+)-annotation-\d+-by-.+-[^-]+-(?P<label>[^-]+)-\d+\.png")
"""Names of brushes in PNG files: task, annotation, author, control, label and a number."""
LABELS = ("brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels")
WORD, SIZES = 8, (3, 7, 11, 15)
"""Bits of a value, and of the lengths of runs, in what `encode` writes."""


def is_label_studio(path: Path) -> bool:
    """Whether a JSON file looks like one."""
    return path.suffix.lower() == ".json" and peek(path, ['"annotations"', '"data"']) and peek(path, ["["], 1)


def read_label_studio(root: Path, file: str | None) -> Export:
    """The tasks in a file, or in all such files below the root.

    Of several annotations of a task, the ground truth counts, else the last; cancelled ones do not.

    Raises:
        DataError: a file is not such an export.
    """
    return Export.of(
        drawings_in(root, file, [".json"], is_label_studio, lambda path: parse(path, KIND, partial(_read, path)))
    )


class Picture(NamedTuple):
    """A PNG of one brush, opaque or not black where it is."""

    path: str

    def pixels(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """See `Area`. Raises ValueError for another size."""
        found = picture(Path(self.path).read_bytes())
        if found.shape != size:
            raise ValueError(f"{self.path} has {found.shape[1]} x {found.shape[0]} pixels")
        return found


def is_brush(path: Path) -> bool:
    """Whether a file is named as a brush in a PNG."""
    return BRUSH.fullmatch(path.name) is not None


def read_brushes(root: Path, file: str | None) -> Export:
    """Brushes in PNG files, named by their task; a JSON file of the tasks tells the images. Raises DataError."""
    tasks: dict[int, tuple[str, Path]] = {}
    for path in exports(root, file, [".json"], lambda each: peek(each, ['"id"', '"data"'])):
        names = parse(path, KIND, lambda table: {int(task["id"]): image_name(task["data"]) for task in table})
        tasks |= {number: (name, path) for number, name in names.items()}
    shapes: dict[int, list[Shape]] = {number: [] for number in tasks}
    brushes = exports(root, None, [".png"], is_brush)
    for path in brushes:
        found = BRUSH.fullmatch(path.name)
        assert found is not None
        if (number := int(found["task"])) not in shapes:
            raise DataError(f"{path} is of task {number}, which no JSON file in {root} has. Export the tasks, too.")
        shapes[number].append(Shape(found["label"], Picture(str(path))))
    drawings = [Drawing(name, tuple(shapes[number]), None, str(path)) for number, (name, path) in tasks.items()]
    return Export.of({"train": drawings}, no_images=map(str, brushes))


def _read(path: Path, tasks: list[dict[str, Any]]) -> list[Drawing]:
    return [_task(task, path) for task in tasks]


def _task(task: dict[str, Any], path: Path) -> Drawing:
    valid = [each for each in task["annotations"] if not each.get("was_cancelled")]
    chosen = next((each for each in valid if each.get("ground_truth")), valid[-1] if valid else {"result": []})
    results = [each for each in chosen["result"] if any(kind in each.get("value", {}) for kind in LABELS)]
    sizes = {(int(each["original_height"]), int(each["original_width"])) for each in results}
    if len(sizes) > 1:
        raise ValueError(f"task {task.get('id')} has regions on images of several sizes")
    size = sizes.pop() if sizes else None
    shapes = tuple(
        _shape(each["value"], (int(each["original_height"]), int(each["original_width"]))) for each in results
    )
    return Drawing(image_name(task["data"]), shapes, size, str(path))


def image_name(data: dict[str, Any]) -> str:
    """The name of a task's image: the first value that looks like one, without the hash of an upload.

    Raises:
        ValueError: there is none.
    """
    texts = [
        value for key, value in sorted(data.items(), key=lambda pair: pair[0] != "image") if isinstance(value, str)
    ]
    named = next((text for text in texts if "." in base_name(text) or "d=" in text), None)
    if named is None:
        raise ValueError("a task names no image")
    address = urlsplit(named)
    place = parse_qs(address.query).get("d", [address.path])[0]
    return HASH.sub("", unquote(base_name(place)))


def _shape(value: dict[str, Any], size: tuple[int, int]) -> Shape:
    kind = next(kind for kind in LABELS if kind in value)
    return Shape(str(value[kind][0]), _area(value, size))


def _area(value: dict[str, Any], size: tuple[int, int]) -> Area:
    height, width = size
    if "rle" in value:
        values = decode(value["rle"])
        if values.size != 4 * height * width:
            raise ValueError(f"a brush has {values.size // 4} pixels, its image {height * width}")
        return Bitmap(values.reshape(height, width, 4)[..., 3] > 127)
    across, down = width / 100, height / 100  # positions are in percent
    if "points" in value:
        return Polygon([[(x * across, y * down) for x, y in value["points"]]])
    x, y, turn = value["x"] * across, value["y"] * down, value.get("rotation", 0.0)
    if "radiusX" in value:
        return ellipse((x, y), (value["radiusX"] * across, value["radiusY"] * down), turn)
    return rectangle(x, y, value["width"] * across, value["height"] * down, turn)


def decode(rle: Sequence[int]) -> NDArray[np.uint8]:
    """The bytes that a brush's run lengths stand for: four for each pixel, red, green, blue and alpha.

    The format packs bits: 32 for the number of bytes, 5 for the bits of a byte, less one, four times 4 for the bits of
    each kind of length, less one; then runs: 1 bit for whether one byte is repeated, 2 for the kind of length, the
    length less one, and the byte or bytes.
    """
    bits = np.unpackbits(np.asarray(rle, np.uint8))
    place = 0

    def take(count: int) -> int:
        nonlocal place
        if place + count > len(bits):
            raise ValueError("the run lengths of a brush end too early")
        found = int("".join(map(str, bits[place : place + count].tolist())), 2) if count else 0
        place += count
        return found

    total, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values = np.zeros(total, np.uint8)
    done = 0
    while done < total:
        repeated, length = take(1), take(sizes[take(2)]) + 1
        if done + length > total:
            raise ValueError("the run lengths of a brush are too long")
        values[done : done + length] = take(word) if repeated else [take(word) for _ in range(length)]
        done += length
    return values


def encode(mask: NDArray[np.bool_]) -> list[int]:
    """The run lengths of a brush for `(H, W)`, see `decode`: white where it is, all zero elsewhere."""
    flat = np.repeat(mask.ravel(), 4)
    ends = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate([[0], ends, [flat.size]]))
    bits = [f"{flat.size:032b}", f"{WORD - 1:05b}", *(f"{size - 1:04b}" for size in SIZES)]
    on = bool(flat[0]) if flat.size else False
    for length in lengths.tolist():
        while length:
            part = min(length, 1 << SIZES[-1])
            kind = next(index for index, size in enumerate(SIZES) if part <= 1 << size)
            bits.append(f"1{kind:02b}{part - 1:0{SIZES[kind]}b}{255 if on else 0:08b}")
            length -= part
        on = not on
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[index : index + 8], 2) for index in range(0, len(text), 8)]

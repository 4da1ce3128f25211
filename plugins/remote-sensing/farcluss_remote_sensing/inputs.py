"""Scenes that an input of `predict` names other than by a file, a folder or a glob."""

from collections.abc import Sequence
from pathlib import Path

from farcluss.errors import DataError
from farcluss.inference.writers import Case
from farcluss_remote_sensing.addresses import is_address, scene_name
from farcluss_remote_sensing.stac import read_items
from farcluss_remote_sensing.tables import images_of, read_scenes, root_of_table


def named_scenes(text: str, chosen: Sequence[str], known: Sequence[str]) -> list[Case] | None:
    """The scenes of a table, of STAC items, of `A.tif;B.tif` or of an address; None for other inputs.

    Args:
        text: the input.
        chosen: assets of STAC items, in the order of the network's bands.
        known: names of the bands, which are looked for among assets where none are chosen.

    Raises:
        DataError: a table or items cannot be read, or lack something.
    """
    path = Path(text)
    if path.suffix.lower() == ".csv" and path.is_file():
        return _table(path)
    if path.suffix.lower() in (".json", ".geojson") and path.is_file():
        return [(name, tuple(map(_file, files))) for name, files in read_items(path, chosen, known)]
    if is_address(text) or (";" in text and not path.exists()):
        files = images_of(text, Path())
        return [(Path(scene_name(files[0], Path())).name, tuple(map(_file, files)))] if files else None
    return None


def _table(path: Path) -> list[Case]:
    rows, _ = read_scenes(path)
    root = root_of_table(path, rows)
    scenes = [images_of(row["image"], root) for _, row in rows]
    if not all(scenes):
        line = next(number for (number, _), files in zip(rows, scenes, strict=True) if not files)
        raise DataError(f"{path}, line {line}: the column image is empty.")
    return [(scene_name(files[0], root).lstrip("/"), tuple(map(_file, files))) for files in scenes]


def _file(name: str) -> Path | str:
    return name if is_address(name) else Path(name)

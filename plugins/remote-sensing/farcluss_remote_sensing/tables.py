"""Tables of scenes: a line per scene, which names its files."""

from pathlib import Path

from farcluss.data.layouts import read_table
from farcluss.errors import DataError
from farcluss_remote_sensing.addresses import is_address, locate


def read_scenes(table: Path) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    """Rows of a table of scenes with their line numbers, and its columns. Raises DataError: it has no column image."""
    rows, columns = read_table(table)
    if "image" not in columns:
        raise DataError(
            f"{table} has the columns {', '.join(columns) or '(none)'}.\n"
            "It needs image; label, group and split are optional."
        )
    return rows, columns


def images_of(text: str, folder: Path) -> tuple[str, ...]:
    """The files of a scene, `A.tif;B.tif`, as paths relative to a folder or as addresses."""
    return tuple(locate(folder, name.strip()) for name in text.split(";") if name.strip())


def root_of_table(table: Path, rows: list[tuple[int, dict[str, str]]]) -> Path:
    """The folder to which a table's paths are relative: the nearest above it that holds one of its images, or its own.

    Training takes `data.root`, in which a table may lie in a subfolder.
    """
    names = [name.strip() for _, row in rows for name in row["image"].split(";") if name.strip()]
    places = table.absolute().parents
    local = [name for name in names if not is_address(name)]
    return next((place for name in local for place in places if (place / name).is_file()), places[0])

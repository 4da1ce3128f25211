"""Finished strips of a scene's maps, kept on disk until all are done, so that an interrupted prediction can resume.

Notation used for shapes: h, W rows and columns.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farcluss.errors import DataError
from farcluss.runs.atomic import write_atomically

KEY = "key.json"
Maps = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Strips:
    """A folder of strips: a file of rows per map, and a record, written last, that marks them as complete.

    Attributes:
        folder: where they are.
        size: rows and columns of the scene.
        rows: per strip; the last one may have fewer.
        maps: number of bands and type of each map.
    """

    folder: Path
    size: tuple[int, int]
    rows: int
    maps: Mapping[str, tuple[int, str]]

    @property
    def count(self) -> int:
        """Number of strips."""
        return -(-self.size[0] // self.rows)

    def bounds(self, number: int) -> tuple[int, int]:
        """First row of a strip, and the one after its last."""
        return number * self.rows, min((number + 1) * self.rows, self.size[0])

    def begin(self, key: str) -> list[int]:
        """Numbers of the strips that are missing: all of them, unless those in the folder have the same key.

        Raises:
            DataError: the folder is a link.
        """
        if self.folder.is_symlink():
            raise DataError(f"{self.folder} is a link, so unfinished work would be stored elsewhere. Remove the link.")
        path = self.folder / KEY
        if not path.is_file() or path.read_text(encoding="utf-8") != key:
            self.remove()
            self.folder.mkdir(parents=True)
            write_atomically(path, key.encode())
        return [number for number in range(self.count) if not self._record(number).is_file()]

    def write(self, pieces: Iterable[tuple[int, Maps, Any]], numbers: Iterable[int]) -> Iterator[int]:
        """Write consecutive strips from pieces of their rows, which must not cross a strip's border.

        Args:
            pieces: number of the first row, maps `(bands, h, W)`, and facts to store in the record of the strip.
            numbers: of the strips.

        Yields:
            Rows that each piece has.
        """
        flow = iter(pieces)
        for number in numbers:
            end, facts = self.bounds(number)[1], []
            files = {name: self._path(number, name).open("wb") for name in self.maps}
            try:
                for row, maps, fact in flow:
                    facts.append(fact)
                    for name, file in files.items():
                        values = np.ascontiguousarray(np.moveaxis(maps[name], 0, 1), self.maps[name][1])
                        file.write(values.data)
                    height = values.shape[0]
                    if row + height == end:
                        break
                    yield height
                for file in files.values():
                    file.flush()
                    os.fsync(file.fileno())
            finally:
                for file in files.values():
                    file.close()
            write_atomically(self._record(number), json.dumps(facts).encode())
            yield height

    def facts(self) -> list[Any]:
        """The facts of all pieces, from the records."""
        records = (self._record(number).read_text(encoding="utf-8") for number in range(self.count))
        return [fact for record in records for fact in json.loads(record)]

    def open(self, number: int, name: str) -> NDArray[Any]:
        """A map of a strip `(h, bands, W)`, memory-mapped."""
        first, last = self.bounds(number)
        bands, dtype = self.maps[name]
        return np.memmap(self._path(number, name), dtype, "r", shape=(last - first, bands, self.size[1]))

    def remove(self) -> None:
        """Remove the folder, if it is there."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int, name: str) -> Path:
        return self.folder / f"{number:05d}.{name}"

    def _record(self, number: int) -> Path:
        return self._path(number, "json")

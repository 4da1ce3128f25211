"""Reading a whole pack again, to find what is damaged."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from farcluss.data.base import Item
from farcluss.data.pack import Pack, is_damaged, open_file
from farcluss.jobs.packing import readings


@dataclass(frozen=True)
class Inspection:
    """Reading all of a pack; iterate it, and it says what is damaged of each image, None for whole ones."""

    pack: Pack
    path: Path

    def __len__(self) -> int:
        return len(self._items)

    @cached_property
    def _items(self) -> list[Item]:
        return readings(list(self.pack.contents.items))

    def __iter__(self) -> Iterator[str | None]:
        """One text or None per image and mask."""
        contents = self.pack.contents
        with open_file(self.path) as file:
            known: dict[str, bool] = {}
            for item in self._items:
                number = contents.images[item.image]
                names = [f"images/{number}", *([f"valid/{number}"] if f"valid/{number}" in file else [])]
                if item.mask is not None:
                    names.append(f"masks/{contents.masks[item.image, item.mask]}")
                for name in names:
                    if name not in known:
                        known[name] = name not in file or is_damaged(file[name])
                known[names[0]] |= not known[names[0]] and file[names[0]].shape[1:] != self.pack.size(item)
                damaged = [name.partition("/")[0].removesuffix("s") for name in names if known[name]]
                yield f"{item.id}: damaged {' and '.join(damaged)}" if damaged else None


def inspect(path: Path) -> Inspection:
    """All items of a pack, to be read and compared with their checksums. Raises DataError when it cannot be opened."""
    return Inspection(Pack(path), path)

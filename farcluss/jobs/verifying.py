"""Reading a whole pack to find damaged images and masks."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from farcluss.data.base import Item
from farcluss.data.pack import Pack, is_damaged, open_file
from farcluss.jobs.packing import items_to_read


@dataclass(frozen=True)
class Inspection:
    """Verifies a pack; iterating it yields one message per item, None for an intact one."""

    pack: Pack
    path: Path

    def __len__(self) -> int:
        return len(self._items)

    @cached_property
    def _items(self) -> list[Item]:
        return items_to_read(list(self.pack.contents.items))

    def __iter__(self) -> Iterator[str | None]:
        """Read each image and mask and compare its checksum."""
        contents = self.pack.contents
        with open_file(self.path) as file:
            damage: dict[str, bool] = {}
            for item in self._items:
                number = contents.images[item.image]
                names = [f"images/{number}", *([f"valid/{number}"] if self.pack.has_valid(number) else [])]
                if item.mask is not None:
                    names.append(f"masks/{contents.masks[item.image, item.mask]}")
                for name in names:
                    if name not in damage:
                        damage[name] = is_damaged(file, name)
                damage[names[0]] |= not damage[names[0]] and file[names[0]].shape[1:] != self.pack.size(item)
                damaged = [name.partition("/")[0].removesuffix("s") for name in names if damage[name]]
                yield f"{item.id}: damaged {' and '.join(damaged)}" if damaged else None


def inspect(path: Path) -> Inspection:
    """Open a pack to verify it. Raises DataError when it cannot be opened."""
    return Inspection(Pack(path), path)

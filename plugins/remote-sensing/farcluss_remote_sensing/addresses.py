"""Rasters that are no files here: addresses that GDAL opens, which `pathlib` would change."""

import os
import re
from pathlib import Path

from farcluss.data.pairing import below

_ADDRESS = re.compile(r"(/vsi\w+/)+([a-z][\w+.-]*://)?|[a-z][\w+.-]+://", re.IGNORECASE)


def is_address(name: str) -> bool:
    """Whether a name is an address such as `https://...`, `s3://...` or `/vsicurl/...`, not a path."""
    return _ADDRESS.match(name) is not None


def locate(folder: Path, name: str) -> str:
    """A path that is relative to a folder; an address as it is."""
    return name if is_address(name) else str(folder / name)


def is_there(name: str) -> bool:
    """Whether a path is a file; addresses are believed to be, until they are opened."""
    return is_address(name) or os.path.isfile(name)


def scene_name(name: str, root: Path) -> str:
    """What a scene is called after its file: the path below the root, or the address, without start and extension."""
    if not is_address(name):
        return below(Path(name).with_suffix(""), root)
    return os.path.splitext(_ADDRESS.sub("", name, count=1).partition("?")[0])[0]

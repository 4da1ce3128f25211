"""STAC items: scenes whose files a JSON document names, as searches of catalogs return them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from farcluss.errors import DataError, short, some
from farcluss.recipes.texts import read_text
from farcluss_remote_sensing.addresses import locate
from farcluss_remote_sensing.files import SUFFIXES

RASTERS = ("image/tiff", "image/jp2", "image/vnd.stac.geotiff", "application/geotiff")
"""Media types of rasters, the beginning of what an asset says."""


def read_items(path: Path, chosen: Sequence[str], known: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Id and files of each item of a JSON file: a Feature, or a FeatureCollection of them.

    Args:
        path: of the file; relative addresses of assets are relative to its folder.
        chosen: assets whose bands are stacked, by key or by the name of their only band.
        known: the same where none is chosen; without effect for an item that lacks some, of which then the only raster
            is taken.

    Raises:
        DataError: it holds no items, or an item lacks an asset.
    """
    try:
        document = json.loads(read_text(path, DataError))
    except (ValueError, RecursionError):
        raise DataError(f"{path} cannot be read as JSON. Give STAC items, a table or rasters.") from None
    kind = document.get("type") if isinstance(document, dict) else None
    items = {"Feature": [document], "FeatureCollection": document.get("features")}.get(kind) if kind else None
    if not isinstance(items, list) or not items or not all(map(_is_item, items)):
        raise DataError(
            f"{path} holds no STAC items: a Feature with an id and assets, or a FeatureCollection of some.\n"
            "Give such a file, a table or rasters."
        )
    folder = path.absolute().parent
    return [(item["id"], tuple(_places(path, item, chosen, known, folder))) for item in items]


def _is_item(item: Any) -> bool:
    facts = item if isinstance(item, dict) else {}
    assets = facts.get("assets")
    named = isinstance(facts.get("id"), str) and facts["id"] != ""
    return named and isinstance(assets, dict) and all(map(_is_asset, assets.values()))


def _is_asset(asset: Any) -> bool:
    return isinstance(asset, dict) and isinstance(asset.get("href"), str)


def _places(
    path: Path, item: Mapping[str, Any], chosen: Sequence[str], known: Sequence[str], folder: Path
) -> list[str]:
    """Files of the chosen assets of an item. Raises DataError: an asset is not there, or it is not clear which."""
    assets: Mapping[str, Mapping[str, Any]] = item["assets"]
    rasters = [key for key, asset in assets.items() if _is_raster(asset)]
    found = {name: _key(assets, name) for name in chosen or known}
    missing = [name for name, key in found.items() if key is None]
    keys = list(found.values()) if found and not missing else rasters
    if (chosen and missing) or (keys is rasters and len(rasters) != 1):
        what = f"no asset {missing[0]!r}" if missing else f"{len(rasters)} rasters"
        raise DataError(
            f"{path}: {short(item['id'])} has {what}; its assets are {some(list(assets), 20) or 'none'}.\n"
            """Name those of the network's bands in their order: --set 'assets=["red", "nir"]'"""
        )
    return [_place(str(assets[str(key)]["href"]), folder) for key in keys]


def _place(href: str, folder: Path) -> str:
    """The path or the address of an asset."""
    if href.lower().startswith("file://"):
        return unquote(href[len("file://") :])
    return locate(folder, href)


def _is_raster(asset: Mapping[str, Any]) -> bool:
    roles = asset.get("roles") or ["data"]
    known = str(asset.get("type", "")).lower().startswith(RASTERS) or asset["href"].lower().endswith(SUFFIXES)
    return known and not {"thumbnail", "overview", "metadata"} & set(map(str, roles if isinstance(roles, list) else []))


def _key(assets: Mapping[str, Mapping[str, Any]], name: str) -> str | None:
    """The key of an asset by that key, or by the name or common name of its only band."""
    if name in assets:
        return name
    return next((key for key, asset in assets.items() if name in _band_names(asset)), None)


def _band_names(asset: Mapping[str, Any]) -> list[Any]:
    bands = asset.get("bands") or asset.get("eo:bands")
    if not isinstance(bands, list) or len(bands) != 1 or not isinstance(bands[0], dict):
        return []
    return [bands[0].get(name) for name in ("name", "common_name", "eo:common_name")]

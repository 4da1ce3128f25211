"""Scenes in folders: which files belong together, and their names and labels."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from farcluss.data.pairing import MaskFinder, below
from farcluss.errors import DataError
from farcluss_remote_sensing.files import SUFFIXES
from farcluss_remote_sensing.scenes import VECTORS, Scene

LABELS = (*SUFFIXES, *VECTORS)
"""Extensions of labels; of two labels with the same name, the earlier extension is used."""

Files = Mapping[Path, tuple[Path, ...]]
"""Files by scene: its key is their path without extension and band."""


def files_in(root: Path, pattern: str) -> list[Path]:
    """Files of scenes in a folder and its subfolders, or matched by a glob of files or folders, sorted.

    Raises:
        DataError: there are none.
    """
    path = Path(pattern)
    start, rest = (Path(path.anchor), str(path.relative_to(path.anchor))) if path.is_absolute() else (root, pattern)
    places = [root / path] if (root / path).is_dir() else list(start.glob(rest))
    found = {file for place in places for file in (place.rglob("*") if place.is_dir() else [place])}
    known = sorted(f for f in found if f.suffix.lower() in SUFFIXES and not f.name.startswith(".") and f.is_file())
    if not known:
        raise DataError(f"There are no scenes in {root / path}.\nCheck data.root and the layout's image options.")
    return known


def single_files(files: Iterable[Path]) -> tuple[dict[Path, tuple[Path, ...]], list[str]]:
    """Files that are a scene each, and problems: files that differ only in extension are left out."""
    found: dict[Path, list[Path]] = {}
    for file in files:
        found.setdefault(file.with_suffix(""), []).append(file)
    twice = [paths for paths in found.values() if len(paths) > 1]
    problems = [f"{paths[0]} and {paths[1]} have the same name. Remove one of them." for paths in twice]
    return {base: (paths[0],) for base, paths in found.items() if len(paths) == 1}, problems


def band_files_of(files: Iterable[Path], ends: Sequence[str]) -> tuple[dict[Path, tuple[Path, ...]], list[str]]:
    """Scenes of files with a band each, see `group_bands`; and problems, whose scenes are left out."""
    scenes, problems = {}, []
    for base, bands in group_bands(files, ends).items():
        problems += [f"{base} has two files for {end}: {p[0]} and {p[1]}." for end, p in bands.items() if len(p) > 1]
        problems += [f"{base} has no file that ends in {end}." for end in ends if end not in bands]
        if all(len(bands.get(end, ())) == 1 for end in ends):
            scenes[base] = tuple(bands[end][0] for end in ends)
    return scenes, problems


def group_bands(files: Iterable[Path], ends: Sequence[str]) -> dict[Path, dict[str, list[Path]]]:
    """Files with a band each, by scene and by end: those whose names share what precedes one of `ends`.

    Files named after their band only, such as `SCENE/B02.tif`, belong to the scene named after their folder.
    """
    found: dict[Path, dict[str, list[Path]]] = {}
    for file in files:
        if own := [end for end in ends if file.stem.endswith(end)]:
            end = max(own, key=len)
            start = file.stem.removesuffix(end).rstrip("_-.")
            found.setdefault(file.with_name(start) if start else file.parent, {}).setdefault(end, []).append(file)
    return found


def label_finder(root: Path, images: str, labels: str, suffix: str) -> MaskFinder:
    """The finder of an images option and a labels option."""
    return MaskFinder.of(root, images, labels, suffix, SUFFIXES, LABELS)


def scenes_of(root: Path, base: Path, files: Files, finder: MaskFinder, by_folder: bool) -> list[tuple[str, Scene]]:
    """Scenes, each with its name below `base`; their ids are their paths below `root`, their groups their folders'."""
    found = []
    for path, images in files.items():
        label = finder.named(path)
        name, long = (below(path, folder) for folder in (base, root))
        group = below(path.parent, root) if by_folder else ""
        found.append((name, Scene(long, tuple(map(str, images)), str(label) if label else None, group)))
    labels = {scene.label for _, scene in found}
    return [(name, scene) for name, scene in found if scene.images[0] not in labels]


def short_names(splits: Mapping[str, Sequence[tuple[str, Scene]]]) -> dict[str, list[Scene]]:
    """Scenes with their short name as id where it is unique, else with the id that they have."""
    counts = Counter(name for pairs in splits.values() for name, _ in pairs)
    return {
        split: [replace(scene, id=name) if counts[name] == 1 else scene for name, scene in pairs]
        for split, pairs in splits.items()
    }

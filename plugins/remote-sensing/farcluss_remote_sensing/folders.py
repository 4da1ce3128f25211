"""Scenes in folders: which files belong together, and their names and labels."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from glob import glob
from pathlib import Path

from farcluss.data.accounting import Account, Passed, Reason, unowned
from farcluss.data.pairing import MaskFinder, below
from farcluss.data.searching import Found, search, search_any, whole
from farcluss.errors import DataError
from farcluss_remote_sensing.files import SUFFIXES
from farcluss_remote_sensing.scenes import VECTORS, Scene

LABELS = (*SUFFIXES, *VECTORS)
"""Extensions of labels."""

Files = Mapping[Path, tuple[Path, ...]]
"""Files by scene: its key is their path without extension and band."""


def look_for(root: Path, pattern: str) -> Found:
    """Files of scenes in a folder and its subfolders, or matched by a glob of files or folders; what else lies there.

    Raises:
        DataError: there are none, or the glob is invalid.
    """
    places = [search_any(root, pattern, SUFFIXES)]
    if not (root / pattern).is_dir():
        folders = [path for name in sorted(glob(str(root / pattern))) if (path := Path(name)).is_dir()]
        places += [search(folder, SUFFIXES) for folder in folders]
    passed = [entry for found in places for entry in whole(found).passed]
    files = sorted({path for found in places for path in found.files})
    if not files:
        reason = Account.of((), passed).lines()[:1]
        hint = "Check data.root and the layout's image options."
        raise DataError("\n".join([f"There are no scenes in {root / pattern}.", *reason, hint]))
    return Found(files, passed)


def files_in(root: Path, pattern: str) -> list[Path]:
    """Files of scenes, see `look_for`."""
    return list(look_for(root, pattern).files)


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


def scenes_of(
    root: Path, base: Path, files: Files, finder: MaskFinder, by_folder: bool
) -> tuple[list[tuple[str, Scene]], list[str]]:
    """Scenes, each with its name below `base`, and a problem for each with two labels, which is left out.

    Their ids are their paths below `root`, their groups those of their folders.
    """
    found, problems = [], []
    for path, images in files.items():
        if any(map(finder.where.claims, images)):
            continue
        try:
            label = finder.named(path, images)
        except DataError as error:
            problems.append(str(error))
            continue
        name, long = (below(path, folder) for folder in (base, root))
        group = below(path.parent, root) if by_folder else ""
        found.append((name, Scene(long, tuple(map(str, images)), str(label) if label else None, group)))
    labels = {scene.label for _, scene in found}
    return [(name, scene) for name, scene in found if scene.images[0] not in labels], problems


def not_used(found: Sequence[Found], finders: Sequence[MaskFinder], scenes: Sequence[Scene]) -> list[Passed]:
    """Entries of the folders of scenes and labels that are no part of a scene."""
    images = {path for scene in scenes for path in scene.images}
    owned = {scene.label for scene in scenes}
    labels = [finder.where.search() for finder in finders]
    lost = [path for one in labels for path in one.files if str(path) not in images | owned]
    bare = [Path(scene.images[0]).name for scene in scenes if not scene.label]
    return [
        *(entry for one in (*found, *labels) for entry in one.passed),
        *unowned(dict.fromkeys(lost), bare or [Path(scene.images[0]).name for scene in scenes]),
        *(Passed(path, Reason.MASK) for one in found for path in one.files if str(path) in owned),
    ]


def short_names(splits: Mapping[str, Sequence[tuple[str, Scene]]]) -> dict[str, list[Scene]]:
    """Scenes with their short name as id where it is unique, else with the id that they have."""
    counts = Counter(name for pairs in splits.values() for name, _ in pairs)
    return {
        split: [replace(scene, id=name) if counts[name] == 1 else scene for name, scene in pairs]
        for split, pairs in splits.items()
    }

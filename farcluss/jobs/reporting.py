"""The report of a run or of a comparison: what its files say, what its weights do, in one page."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from farcluss.data.base import IGNORE, Dataset, Item, read_sample
from farcluss.errors import FarclussError, PluginError, RunError, counted
from farcluss.inference.calibration import calibrate
from farcluss.inference.per_image import PerImage
from farcluss.inference.probs import uncertainty
from farcluss.inference.weights import Model
from farcluss.inference.writers import to_picture
from farcluss.jobs.scoring import to_score
from farcluss.jobs.sections import (
    Run,
    class_section,
    curves_section,
    differences,
    environment,
    percent,
    pseudo_label_section,
    scores_table,
    settings,
    shares_section,
    uncertainty_section,
)
from farcluss.recipes.reading import load_recipe
from farcluss.reports import page
from farcluss.runs.folder import RunFolder

UNKNOWN = (160, 160, 160)
"""Color of ignored pixels."""


def read_runs(places: Sequence[Path]) -> list[Run]:
    """The runs in run directories, and in the folders of comparisons: there, those of the last table if there is one.

    Raises:
        RunError: a place holds none.
    """
    folders: list[Path] = []
    for place in places:
        compared = [place / run["folder"] for row in _results(place).get("rows", ()) for run in row["runs"]]
        below = [place] if RunFolder(place).exists() else sorted(path.parent for path in place.rglob("recipe.toml"))
        if not below:
            raise RunError(f"{place} holds no run: there is no recipe.toml. Give run directories, or a comparison's.")
        folders += compared or below
    groups = {folder: _group(folder) for folder in folders}
    deep = len({group.name for group in groups.values()}) < len(set(groups.values()))
    return [_read(folder, "/".join(group.parts[-2:]) if deep else group.name) for folder, group in groups.items()]


def _results(place: Path) -> dict[str, Any]:
    """The figures of a comparison; empty for another folder."""
    path = place / "results.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def _group(folder: Path) -> Path:
    """The folder without its seed, and without the share of labels where the recipe's own counts."""
    group = folder.parent if re.fullmatch(r"seed-?\d+", folder.name) else folder
    return group.parent if group.name == "labeled" else group


def _read(folder: Path, group: str) -> Run:
    about, log = folder / "environment.json", folder / "log.txt"
    facts = json.loads(about.read_text()) if about.exists() else {}
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    warned = [found[1] for found in (re.search(r"\bWarning(?: at)?:? (.*)", line) for line in lines) if found]
    return Run(
        folder,
        group,
        load_recipe(folder / "recipe.toml"),
        RunFolder(folder).lines(),
        facts,
        list(dict.fromkeys(warned)),
    )


def report(places: Sequence[Path], *, split: str | None, pictures: int, device: Any, workers: int) -> str:
    """The page of a run, or of several side by side.

    Args:
        places: run directories, or folders of comparisons.
        split: what a single run's weights are looked at on: val, test or a list file; None for the recipe's val.
        pictures: worst images, and as many best ones.
        device: where to run.
        workers: processes that decode images.

    Raises:
        FarclussError: there is no such run, or matplotlib is missing.
    """
    if find_spec("matplotlib") is None:
        raise PluginError("Reports need matplotlib: pip install 'farcluss[report]'")
    runs = read_runs(places)
    if len(runs) > 1:
        return _of_several(runs, places)
    return _of_one(runs[0], split, pictures, device, workers)


def _of_one(run: Run, split: str | None, pictures: int, device: Any, workers: int) -> str:
    try:
        look = _look(run, split, pictures, device, workers)
    except FarclussError as error:  # what the run's own files say is still worth a page
        look, trouble = None, [f"Its weights were not looked at: {error}"]
    else:
        trouble = []
    network = run.recipe.eval.network
    _, scores = run.curve("eval", f"{network}_miou")
    skipped = max(run.curve("train", "skipped_steps")[1], default=0)
    if skipped:
        trouble.append(f"{skipped} steps were skipped, as a loss or gradient was not finite.")
    if scores and scores[-1] < max(scores) - 0.05:
        trouble.append("The last weights score more than 5 points below the best ones: see the curves.")
    lead = page.facts(
        [
            (f"mIoU of the {network}, last", percent(scores[-1] if scores else None)),
            ("best", percent(max(scores, default=None))),
            *(look.figures if look else []),
            ("steps", f"{max((line['step'] for line in run.lines), default=0):,} of {run.recipe.train.steps or '?'}"),
        ]
    ) + page.paragraphs([*trouble, *run.warnings], "warning")
    sections = [
        page.Section("Curves", curves_section([run])),
        *(look.sections if look else []),
        page.Section("Pseudo-labels", pseudo_label_section([run])),
        *(look.pictures if look else []),
        page.Section("Recipe", settings(run)),
        page.Section("Environment", environment(run)),
    ]
    return page.page(run.recipe.name, lead, sections, f"farcluss report of {run.folder}")


def _of_several(runs: Sequence[Run], places: Sequence[Path]) -> str:
    results = list(filter(None, map(_results, places)))
    told = [text.replace("`", "") for facts in results for text in facts["sentences"]]
    title = f"{counted(len({run.group for run in runs}), 'method')}, {counted(len(runs), 'run')}"
    sections = [
        page.Section("Scores", "".join(scores_table(facts) for facts in results)),
        page.Section("Curves", curves_section(runs)),
        page.Section("Classes", page.grid([shares_section(runs)])),
        page.Section("Pseudo-labels", pseudo_label_section(runs)),
        page.Section("What differs", differences(runs)),
        page.Section("Environment", environment(runs[0])),
    ]
    return page.page(title, page.paragraphs(told), sections, f"farcluss report of {', '.join(map(str, places))}")


@dataclass(frozen=True)
class Look:
    """What the weights of a run do: figures for the top, sections of charts, and one of pictures."""

    figures: list[tuple[str, str]]
    sections: list[page.Section]
    pictures: list[page.Section]


def _look(run: Run, split: str | None, pictures: int, device: Any, workers: int) -> Look:
    """Predict the images and look at the result. Raises FarclussError."""
    weights = RunFolder(run.folder).last
    model, dataset, items = to_score(str(weights), {"data": {"val": split}} if split else {}, device)
    found: list[tuple[Item, NDArray[np.int64]]] = []
    scores, trust = calibrate(
        model, dataset, items, workers=workers, on_image=lambda item, matrix: found.append((item, matrix))
    )
    places = {item.id: item for item in items}
    table = PerImage.of(model.classes, found)
    order = [index for index in np.argsort(table.miou) if not np.isnan(table.miou[index])]
    worst, best = order[:pictures], order[pictures:][::-1][:pictures]
    shown = {
        title: "".join(_strip(model, dataset, places[table.images[index]], table.miou[index]) for index in chosen)
        for title, chosen in (("Worst images", worst), ("Best images", best))
    }
    where = f"{counted(len(items), 'image')} of {split or 'val'}"
    return Look(
        [("calibration error", percent(trust.ece)), ("AUROC of errors", percent(trust.auroc))],
        [
            page.Section("Classes", class_section(scores, where)),
            page.Section("Uncertainty", uncertainty_section(trust, where)),
        ],
        [page.Section(title, body) for title, body in shown.items()],
    )


def _strip(model: Model, dataset: Dataset, item: Item, miou: float) -> str:
    """An image, its truth, its prediction and its uncertainty."""
    sample = read_sample(dataset, item)
    assert sample.mask is not None
    probs = model.batch_probs(torch.from_numpy(np.ascontiguousarray(sample.image))[None])[0].cpu().numpy()
    colors = np.array([*model.card.palette, *[UNKNOWN] * (IGNORE + 1 - len(model.card.palette))], np.uint8)
    unsure = (255 * uncertainty(probs)).round().astype(np.uint8)
    pictures = [
        ("input", to_picture(_plane(sample.image, 1))),
        ("truth", colors[_plane(sample.mask, 0)]),
        ("prediction", colors[_plane(probs.argmax(0), 0)]),
        ("uncertainty, white is unsure", np.repeat(_plane(unsure, 0)[..., None], 3, 2)),
    ]
    return page.strip(pictures, f"{item.id}: mIoU {percent(miou)}")


def _plane(array: NDArray[Any], leading: int) -> NDArray[Any]:
    """The middle plane of an array with more than two spatial axes behind `leading` ones."""
    while array.ndim > leading + 2:
        array = array[..., array.shape[-1] // 2]
    return array

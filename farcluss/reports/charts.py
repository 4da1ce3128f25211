"""Charts as SVG text, for pages in light and dark: colors are CSS variables of the page, text is text.

Each function returns the SVG of one figure; what it shows in words is the page's task.
"""

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

INK, QUIET = "#010203", "#040506"
SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005", "#0a0006", "#0a0007")
"""Stand-ins, for which the page has colors: text, grid, and series."""
VARIABLES = {INK: "ink", QUIET: "quiet"} | {color: f"s{n}" for n, color in enumerate(SERIES)}
DASHES = ("-", "--", ":", "-.")
"""So that series differ without color, too."""
LABELED = 25
"""Most classes whose names stand beside their points."""
NUMBERED = 12
"""Most classes whose confusion matrix has numbers in its cells."""
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "farcluss",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": QUIET,
    "grid.linewidth": 0.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
_numbers = itertools.count()

Curve = tuple[Sequence[float], Sequence[float]]
"""Places along x, and values."""


def curves(groups: Mapping[str, Sequence[Curve]], label: str, percent: bool = True) -> str:
    """A line over the steps for each group: the mean of its curves, read at the same places, and their range."""

    def draw(axes: Any) -> None:
        for number, (name, group) in enumerate(groups.items()):
            color, dash = SERIES[number % len(SERIES)], DASHES[number // len(SERIES) % len(DASHES)]
            places = sorted(set.intersection(*(set(xs) for xs, _ in group)))
            values = np.array([[dict(zip(xs, ys, strict=True))[place] for place in places] for xs, ys in group], float)
            axes.plot(places, values.mean(0), dash, color=color, label=name, marker="o" * (len(places) < 25), ms=3)
            if len(group) > 1:
                axes.fill_between(places, values.min(0), values.max(0), color=color, alpha=0.2, linewidth=0)
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        if len(groups) > 1 or next(iter(groups)) != label:
            axes.legend()

    return _svg(draw)


def shares(points: Mapping[str, Mapping[str, tuple[float, float]]]) -> str:
    """IoU of each class against its share of the pixels, for each method: a point per class, with its name."""

    def draw(axes: Any) -> None:
        for number, (method, classes) in enumerate(points.items()):
            there = {name: pair for name, pair in classes.items() if pair[0] > 0 and np.isfinite(pair[1])}
            xs, ys = ([pair[index] for pair in there.values()] for index in (0, 1))
            axes.plot(xs, ys, "osD^vPX"[number % 7], color=SERIES[number % len(SERIES)], label=method)
            if number == 0 and len(there) <= LABELED:
                for name, place in there.items():
                    axes.annotate(name, place, (4, 3), textcoords="offset points", fontsize=8)
        axes.set_xscale("log")
        axes.set_ylim(-0.02, 1.02)
        _in_percent(axes, "share of the pixels", "IoU")
        if len(points) > 1:
            axes.legend()

    return _svg(draw)


def matrix(counts: NDArray[Any], names: Sequence[str]) -> str:
    """A confusion matrix: of each true class (row), the share that is predicted as each (column)."""
    table = counts / np.maximum(counts.sum(1, keepdims=True), 1)

    def draw(axes: Any) -> None:
        axes.grid(False)
        axes.imshow(table, vmin=0, vmax=1, cmap="cividis", interpolation="nearest")
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        if len(names) <= 2 * LABELED:
            axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
            axes.set_yticks(range(len(names)), names, fontsize=8)
        if len(names) <= NUMBERED:
            for row, column in itertools.product(range(len(names)), repeat=2):
                color = "#ffffff" if table[row, column] < 0.5 else "#000000"
                text = f"{100 * table[row, column]:.0f}"
                axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)

    return _svg(draw, (5.2, 5.2))


def reliability(bins: NDArray[np.float64]) -> str:
    """Accuracy against confidence: a bar per bin, the diagonal of a calibrated model, and the pixels of each bin."""
    pixels, _, right = bins.T
    there = pixels > 0
    edges = np.arange(len(bins)) / len(bins)

    def draw(axes: Any) -> None:
        axes.bar(edges[there], (right / np.maximum(pixels, 1))[there], 1 / len(bins), align="edge", color=SERIES[0],
                 label="accuracy", linewidth=0)  # fmt: skip
        axes.bar(edges, pixels / pixels.sum(), 1 / len(bins), align="edge", color=SERIES[1], alpha=0.7, linewidth=0,
                 label="share of the pixels")  # fmt: skip
        axes.plot([0, 1], [0, 1], "--", color=INK, label="calibrated")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        _in_percent(axes, "confidence", "")
        axes.legend(loc="upper left")

    return _svg(draw)


def risk_coverage(groups: Mapping[str, NDArray[np.float64]]) -> str:
    """The error of so many of the surest pixels."""

    def draw(axes: Any) -> None:
        for number, (name, points) in enumerate(groups.items()):
            axes.plot(points[:, 0], points[:, 1], DASHES[number % 4], color=SERIES[number % len(SERIES)], label=name)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, None)
        _in_percent(axes, "surest pixels", "wrong among them")
        if len(groups) > 1:
            axes.legend()

    return _svg(draw)


def over_time(steps: Sequence[int], rows: NDArray[np.float64], names: Sequence[str], label: str) -> str:
    """Values per class over the steps, as colors on a log scale, for shares and weights: a row per class."""

    def draw(axes: Any) -> None:
        axes.grid(False)
        values = np.log10(np.maximum(rows, 1e-4))
        shown = axes.imshow(values, aspect="auto", cmap="cividis", interpolation="nearest",
                            extent=(0, len(steps), len(names), 0))  # fmt: skip
        ticks = np.unique(np.linspace(0, len(steps) - 1, min(6, len(steps))).round().astype(int))
        axes.set_xticks(ticks + 0.5, [f"{steps[tick]}" for tick in ticks])
        if len(names) <= 2 * LABELED:
            axes.set_yticks(np.arange(len(names)) + 0.5, names, fontsize=8)
        axes.set_xlabel("step")
        bar = axes.figure.colorbar(shown, ax=axes, label=label)
        ends = range(int(np.floor(values.min())), int(np.ceil(values.max())) + 1)
        bar.set_ticks(list(ends), labels=[f"{10.0**end:g}" for end in ends])

    return _svg(draw)


def _in_percent(axes: Any, x: str, y: str) -> None:
    """Name both axes, whose values are shares."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, symbol=" %"))


def _svg(draw: Any, size: tuple[float, float] = (6, 3.8)) -> str:
    """The SVG of a figure with names of its own, so that several fit into a page."""
    with rc_context(STYLE):
        figure = Figure(size, layout="constrained")
        draw(figure.subplots())
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    for color, name in VARIABLES.items():
        svg = svg.replace(color, f"var(--{name})")
    head, rest = svg.split(">", 1)
    svg = re.sub(r' (?:width|height)="[^"]*"', "", head) + ">" + rest
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    prefix = f"c{next(_numbers)}-"
    for before in (' id="', "url(#", 'href="#'):
        svg = svg.replace(before, before + prefix)
    return svg.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)

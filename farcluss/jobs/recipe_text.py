"""The text of a first recipe: a comment for each line that somebody may want to change."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from farcluss.data.proposals import Proposal
from farcluss.jobs.starting import Plan
from farcluss.runs.folder import toml_key, toml_value

WIDTH = 34
"""Column of the comments."""
LONG = 60
"""Columns of a line from which on its comment is above."""
ALWAYS = ("workers", "crop", "warmup_steps", "ramp_steps", "steps", "batch", "ema", "every")
"""Keys that depend on the machine and the labels, also where a recipe extends a shipped one."""
WORDS = {
    "layout": "how images and masks are found; other ways: farcluss plugins list dataset",
    "classes": "in the order of predictions",
    "ignore_index": "values of pixels that count in no loss and no score",
    "val": "images to score on: a share of those with a mask, a list, or a split",
    "labeled": "masks to learn from: all, a share, or a list; the other images train without",
}


def recipe_text(source: Path, proposal: Proposal, plan: Plan, path: Path, settings: Mapping[str, Any]) -> str:
    """The recipe as TOML, with some keys set to other values than those that suit."""
    lines = [f"# {proposal.what}: {proposal.labeled:,} with a mask, {proposal.unlabeled:,} without.",
             f"#   farcluss check {path}", f"#   farcluss run {path}"]  # fmt: skip
    if proposal.base:
        lines += ["", f"extends = {toml_value(proposal.base)}  # what recipes of such data share"]
    data = {"root": str(source.resolve()), **proposal.data, "labeled": plan.labeled}
    lists = {name: str((path.parent / name).resolve()) for name in proposal.lists}
    data["layout"] = {key: lists.get(value, value) for key, value in data["layout"].items()}
    sections = {"data": {key: (value, WORDS.get(key, "")) for key, value in data.items()}}
    for section, keys in _sections(plan).items():
        kept = {key: value for key, value in keys.items() if not proposal.base or key in ALWAYS}
        sections[section] = {**sections.get(section, {}), **kept}
    sections = {section: keys for section, keys in sections.items() if keys}
    for section, table in settings.items():
        into = sections.setdefault(section, {})
        for key, value in (table if isinstance(table, Mapping) else {}).items():
            old, words = into.get(key, ({}, ""))
            both = isinstance(value, Mapping) and isinstance(old, Mapping)
            into[key] = ({**old, **value} if both else value), words
    for section, keys in sections.items():
        lines += ["", f"[{section}]", *(_line(key, value, words) for key, (value, words) in keys.items())]
    return "\n".join(lines) + "\n"


def _sections(plan: Plan) -> dict[str, dict[str, tuple[Any, str]]]:
    bounded = {"name": "median-frequency", "max_weight": 10.0, "normalize": "mean"}
    rebalance: dict[str, tuple[Any, str]] = {"rebalance": (bounded, "eq. 7, bounded: rare classes count more")}
    if not plan.rebalanced:
        rebalance = {
            "mix": ({"name": "cutmix", "p": 0.5}, "boxes of other images in half of the strong views"),
            "rebalance": ("uniform", "one class covers nearly all: eq. 7 would make the others too large"),
        }
    return {
        "data": {
            "crop": (plan.crop, "pixels per side of a training crop; large enough to name the classes in it"),
            "scale": ([0.5, 2.0], "random scale before cropping"),
            "flip": (0.5, "chance of a mirror image; 0.0 where left and right differ"),
            "workers": (plan.workers, "processes that read images"),
        },
        "network": {
            "name": ("deeplabv3plus", "others: farcluss plugins list network"),
            "encoder": (plan.encoder, "any convolutional encoder of timm"),
            "pretrained": (True, "ImageNet weights, downloaded once; or the path of a file; or false"),
        },
        "stages": {
            "augment": (
                {"name": "photometric"},
                "the strong view; lower jitter if color tells classes",
            ),
            "pseudo_label": ({"name": "fuzzy", "top_k": 3}, "eq. 2, 3: keep the three most probable classes"),
            "weight": ({"name": "entropy"}, "eq. 5, 6: unsure pixels count less"),
            **rebalance,
            "contrast": ({"name": "prototype", "confidence": 0.95}, "eq. 9, 10: confident pixels only"),
        },
        "loss": {
            "unsupervised": (0.5, "weight of the unlabeled images"),
            "contrastive": (0.1, "weight of the contrast"),
            "warmup_steps": (plan.warmup, "labeled images alone"),
            "ramp_steps": (plan.warmup, "then the unlabeled ones come in"),
        },
        "train": {
            "steps": (plan.steps, "longer is better, as long as the score rises"),
            "batch": (plan.batch, "labeled images a step, and as many unlabeled; lower it if memory runs out"),
            "lr": (0.001 if plan.steps >= 4000 else 0.005, "of the encoder; from scratch: 0.02"),
            "head_lr": (10.0, "of everything else, as a multiple; from scratch: 1.0"),
            "ema": (plan.ema, f"the teacher averages some {1 / (1 - plan.ema):,.0f} steps"),
        },
        "eval": {"every": (plan.every, "steps between two scores; weights/best.safetensors keeps the best")},
    }


def _line(key: str, value: Any, words: str) -> str:
    if isinstance(value, list) and len(toml_value(value)) > 80:
        inner = "".join(f"  {toml_value(each)},\n" for each in value)
        return f"{key} = [  # {words}\n{inner}]" if words else f"{key} = [\n{inner}]"
    if isinstance(value, Mapping) and key == "classes" and len(toml_value(value)) > 80:
        return "\n".join(f"classes.{toml_key(name)} = {toml_value(code)}" for name, code in value.items())
    text = f"{key:<12} = {toml_value(value)}"
    if words and len(text) > LONG:
        return f"# {words}\n{text}"
    return f"{text:<{WIDTH}}  # {words}" if words else text

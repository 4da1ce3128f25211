"""Options that several commands share."""

import json
from collections.abc import Callable
from typing import Any

import click

from farcluss.errors import RunError


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """RECIPE, `--with`, `--set` and `--plugin`."""
    for decorate in (
        click.option("--plugin", "plugins", multiple=True, metavar="FILE.py", help="Run a local plugin file first."),
        click.option(
            "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set one key, e.g. train.lr=0.01; repeatable."
        ),
        click.option(
            "--with",
            "overlays",
            multiple=True,
            metavar="FILE",
            help="Overlay a recipe or a shipped method; repeatable.",
        ),
        click.argument("recipe"),
    ):
        command = decorate(command)
    return command


def read_recipe(recipe: str, overlays: tuple[str, ...], settings: tuple[str, ...], plugins: tuple[str, ...]) -> Any:
    """Load local plugins, then the recipe. Raises PluginError, RecipeError."""
    from farcluss.plugins.registry import load_file
    from farcluss.recipes.reading import load_recipe

    for path in plugins:
        load_file(path)
    return load_recipe(recipe, overlays, settings)


def emit_json(value: Any) -> None:
    """Print a value as JSON, for programs; NaN and infinity become null, as JSON has neither."""
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    click.echo(json.dumps(finite, indent=2))


def pick_device(name: str) -> Any:
    """The device to run on: `auto` takes CUDA, then MPS, then the CPU. Raises RunError for an unknown one."""
    import torch

    if name != "auto":
        try:
            torch.zeros(1, device=name).item()
        except (RuntimeError, AssertionError, NotImplementedError):
            raise RunError(f"There is no device {name!r} here; give auto, cpu, cuda, cuda:1 or mps.") from None
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
json_option = click.option("--json", "as_json", is_flag=True, default=False, help="Print JSON instead of a table.")

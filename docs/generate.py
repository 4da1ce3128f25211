"""Writes the pages of reference from the code: of recipes, commands, messages, and one for each of our domain plugins.

    python docs/generate.py            # write all
    python docs/generate.py --check    # exit code 1 when one is stale

The text of the first three depends on farcluss alone: not on the terminal, nor on plugins that are installed. The page
of a plugin is left as it is where that is not installed.
"""

import inspect
import json
import os
import re
import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

os.environ["FARCLUSS_PLUGINS"] = ""  # before anything asks for plugins

import ast

import click
import messages
from pydantic.fields import FieldInfo

from farcluss.cli import BUILT_IN, farcluss
from farcluss.plugins import registry
from farcluss.plugins.options import Color
from farcluss.plugins.signatures import REQUIRED, Description, find_definition, readable
from farcluss.recipes.model import Recipe
from farcluss.recipes.sections import Part, Section

DOCS = Path(__file__).parent
WRITTEN = "<!-- Written by `python docs/generate.py`; edit the code, not this page. -->"
EXTENDS = ("`extends`", "str", "unset", "recipe file, relative to this one, that this one changes; one level deep")
PLACES = {
    "augment": "stages.augment",
    "mix": "stages.mix",
    "perturb": "stages.perturb",
    "pseudo_label": "stages.pseudo_label",
    "weight": "stages.weight",
    "rebalance": "stages.rebalance",
    "contrast": "stages.contrast",
    "network": "network",
    "dataset": "data.layout",
    "writer": "farcluss predict --writer",
}
RECIPE_INTRO = """\
A recipe is a TOML file. Unknown keys are errors. What a recipe leaves out has the default below.

Later words win: the file that `extends` names, the recipe, each `--with FILE`, each `--set KEY=VALUE`. A value of
`--set` is a TOML literal; what is none is a string: `--set train.lr=0.01 --set data.root=/data/fruit`.

Where the type is *plugin*, write a name, `weight = "uniform"`, or a name with options,
`weight = { name = "entropy", gate = true }`. The [plugins](#plugins) and their options follow after the sections. A
plugin of another name replaces the whole entry, options and all; the same name keeps the options that are not given
again.

A *color* is written `"#rrggbb"`.

*unset* is what a key is when it is left out; TOML has no word for it."""
MESSAGES = "Errors that this plugin words, as on the page [messages](messages.md)."
CLI_INTRO = """\
Every command answers to `-h` and `--help`. Exit codes: 0 done, 1 failed, 2 wrong usage. Errors say in one to three
lines what is wrong, where, and what to do; `--debug`, before the command, adds the traceback.

`farcluss` and `python -m farcluss` are the same. `accelerate launch -m farcluss run RECIPE` trains on several
devices."""
DOMAINS = {
    "medical": "What the plugin `farcluss-medical` adds. [Scans](medical.md) leads through it.\n\n"
    "In the tables of layouts their own options come first; those from `dimensions` on are the same in all of them.",
    "remote-sensing": "What the plugin `farcluss-remote-sensing` adds. [Scenes](remote_sensing.md) leads there.\n\n"
    "In the tables of layouts their own options come first; those from `window` on are the same in all of them.",
}
"""Introductions of the pages of plugins, by what follows `farcluss-` in their names."""


def words(annotation: Any) -> str:
    """A type as a recipe's author would say it; None is left out, since *unset* is the default then."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation == Color:
        return "color"
    if origin in (Union, UnionType):
        kept = [a for a in arguments if a is not NoneType]
        texts = list(dict.fromkeys(words(a) for a in kept))
        return ", ".join(texts[:-1]) + " or " + texts[-1] if len(texts) > 1 else texts[0]
    if origin is list:
        inner = words(arguments[0])
        return f"list of ({inner})" if " or " in inner else f"list of {inner}"
    if origin is dict:
        return f"table of ({words(arguments[1])})"
    if annotation is Path:
        return "path"
    return "plugin" if annotation is Part else readable(annotation)


def toml(value: Any) -> str:
    """A default as a recipe would say it."""
    if value is None:
        return "unset"
    if isinstance(value, Part):
        value = value.name
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, float):
        return f"`{float(f'{value:.4g}')}`"
    return f"`{json.dumps(value)}`"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(" ".join(c.split()).replace("|", "\\|") for c in row) + " |" for row in lines)


def prose(doc: str) -> str:
    """A docstring without the blocks that tables repeat or that matter to programmers alone."""
    block = r"^(Args|Raises|Returns|Attributes):\n(?:[ \t]+.*\n?|\n)+"
    return re.sub(block, "", inspect.cleandoc(doc) + "\n", flags=re.MULTILINE).strip()


def description(model: type[Section], key: str) -> str:
    """What a recipe key means: its own description, its parent class's, or the documentation of its stage kind."""
    for owner in model.__mro__:
        field = getattr(owner, "model_fields", {}).get(key)
        if field is not None and field.description:
            return str(field.description)
    return stage_doc(key)


def stage_doc(kind: str) -> str:
    """First paragraph of the contract class of a stage kind; read from source, since importing it imports torch."""
    weighs = kind in ("weight", "rebalance")
    name = "PixelWeight" if weighs else "".join(word.title() for word in kind.split("_"))
    node, _ = find_definition("farcluss.stages.base", name)
    return " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split()) if node else ""


def sections(model: type[Section] = Recipe) -> dict[str, type[Section]]:
    """Sections of a recipe by name, the top level first."""
    inner = {key: f.annotation for key, f in model.model_fields.items() if f.annotation is not Part}
    return {"": model} | {key: t for key, t in inner.items() if isinstance(t, type) and issubclass(t, Section)}


def recipe_rows(model: type[Section]) -> list[tuple[str, str, str, str]]:
    """One row per key of a section: key, type, default, meaning."""

    def row(key: str, field: FieldInfo) -> tuple[str, str, str, str]:
        kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        return f"`{key}`", words(kind), toml(field.default), description(model, key)

    known = sections()
    return [row(key, field) for key, field in model.model_fields.items() if model is not Recipe or key not in known]


def section_text(name: str, model: type[Section]) -> str:
    """Heading, purpose and table of one section."""
    heading = f"## `[{name}]`" if name else "## Top level"
    rows = recipe_rows(model) + ([] if name else [EXTENDS])
    options = "\n\nEvery other key is an option of the network, see [plugins](#plugins)." if name == "network" else ""
    return f"{heading}\n\n{prose(model.__doc__ or '')}\n\n{table(('key', 'type', 'default', 'meaning'), rows)}{options}"


def option_rows(description: Description) -> list[tuple[str, str, str, str]]:
    """One row per option of a plugin: option, type, default, meaning."""
    return [
        (f"`{key}`", words(o.annotation), "required" if o.default is REQUIRED else toml(o.default), o.help)
        for key, o in description.options.items()
    ]


def plugin_text(plugin: registry.Plugin) -> str:
    """Heading, documentation and options of a plugin."""
    found = plugin.describe()
    parts = [f"### {plugin.group}/{plugin.name}", prose(found.doc)]
    if found.options:
        parts.append(table(("option", "type", "default", "meaning"), option_rows(found)))
    if found.open:
        parts.append("Takes further options and passes them on." if found.options else "Takes any option.")
    return "\n\n".join(parts if found.options or found.open else [*parts, "No options."])


def built_in(group: str) -> list[registry.Plugin]:
    """The plugins of a group that come with farcluss."""
    return [plugin for plugin in registry.find(group) if plugin.distribution == "farcluss"]


def recipe_reference() -> str:
    """The page of recipe keys and plugin options."""
    parts = ["# Recipe reference", WRITTEN, RECIPE_INTRO, *(section_text(*item) for item in sections().items())]
    parts.append("## Plugins\n\n`farcluss plugins show GROUP/NAME` prints the same of any plugin that is installed.")
    for group, place in PLACES.items():
        kind = f" {stage_doc(group)}" if place.startswith("stages.") else ""
        parts += [f"**`{place}`**:{kind or f' plugins of the group `farcluss.{group}`.'}"]
        parts += [plugin_text(plugin) for plugin in built_in(group)]
    return "\n\n".join(parts) + "\n"


def commands() -> dict[str, click.Command]:
    """Every built-in command and sub-command by its full name."""
    found: dict[str, click.Command] = {"farcluss": farcluss}
    for name in sorted(BUILT_IN):
        command: click.Command = import_module(f"farcluss.cli.{name}").command
        found |= {f"farcluss {name}": command} | sub_commands(f"farcluss {name}", command)
    return found


def sub_commands(name: str, command: click.Command) -> dict[str, click.Command]:
    """The commands of a group by their full name; none of a single command."""
    if not isinstance(command, click.Group):
        return {}
    context = click.Context(command)
    found = {sub: command.get_command(context, sub) for sub in sorted(command.list_commands(context))}
    return {f"{name} {sub}": inner for sub, inner in found.items() if inner is not None}


def parameter_rows(command: click.Command, context: click.Context) -> list[tuple[str, str, str]]:
    """One row per option of a command: option, default, meaning."""
    rows = []
    for option in (p for p in command.params if isinstance(p, click.Option)):
        flag = option.is_flag or option.count
        names = ", ".join((*option.opts, *option.secondary_opts)) + ("" if flag else f" {option.make_metavar(context)}")
        rows.append((f"`{names}`", toml(option.default) if option.show_default else "", option.help or ""))
    return rows


def command_text(name: str, command: click.Command) -> str:
    """Heading, usage, help, options and examples of a command."""
    context = click.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    text, _, example = inspect.cleandoc(command.help or "").replace("\b\n", "").partition("Example:")
    parts = [f"## {name}", f"```text\n{usage}\n```", text.strip()]
    if name == "farcluss":
        parts.append(table(("command", "purpose"), [(f"`{n}`", BUILT_IN[n]) for n in sorted(BUILT_IN)]))
    if rows := parameter_rows(command, context):
        parts.append(table(("option", "default", "meaning"), rows))
    lines = (example + (command.epilog or "")).replace("\b", "").replace("Example:", "").splitlines()
    if examples := [line.strip() for line in lines if line.strip()]:
        parts.append("```bash\n" + "\n".join(examples) + "\n```")
    return "\n\n".join(parts)


def cli_reference() -> str:
    """The page of commands."""
    parts = ["# Command line reference", WRITTEN, CLI_INTRO]
    return "\n\n".join([*parts, *(command_text(*item) for item in commands().items())]) + "\n"


def plugin_reference(domain: str) -> str:
    """The page of a domain plugin. Raises PackageNotFoundError where it is not installed."""
    owner = distribution(f"farcluss-{domain}")
    entries = {kind: sorted(owner.entry_points.select(group=f"farcluss.{kind}")) for kind in (*PLACES, "command")}
    parts = [f"# Reference of farcluss-{domain}", WRITTEN, DOMAINS[domain]]
    for kind, place in PLACES.items():
        found = [registry.Plugin(kind, entry.name, owner.name, owner.version, entry) for entry in entries[kind]]
        if found:
            parts += [f"**`{place}`**:", *map(plugin_text, found)]
    for entry in entries["command"]:
        parts += [command_text(*item) for item in sub_commands(f"farcluss {entry.name}", entry.load()).items()]
    package = Path(str(import_module(f"farcluss_{domain.replace('-', '_')}").__file__)).parent
    parts += ["## Messages", MESSAGES, messages.listing(package, "###")]
    return "\n\n".join(parts) + "\n"


def pages() -> dict[Path, str]:
    """The generated pages by path."""
    found = {DOCS / "recipe_reference.md": recipe_reference(), DOCS / "cli_reference.md": cli_reference()}
    found[DOCS / "messages.md"] = "\n\n".join(["# Messages", WRITTEN, messages.INTRO, messages.listing()]) + "\n"
    for domain in DOMAINS:
        name = f"{domain.replace('-', '_')}_reference.md"
        try:
            found[DOCS / name] = plugin_reference(domain)
        except PackageNotFoundError:
            print(f"farcluss-{domain} is not installed: {name} is left as it is", file=sys.stderr)
    return found


def main(arguments: list[str]) -> int:
    """Write the pages, or with `--check` compare them."""
    stale = [(p, text) for p, text in pages().items() if not p.exists() or p.read_text(encoding="utf-8") != text]
    for path, text in stale:
        if "--check" in arguments:
            print(f"{path.name} is stale; run python docs/generate.py", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8", newline="\n")
            print(f"wrote {path}")
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

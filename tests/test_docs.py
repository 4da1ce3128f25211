"""The documentation says what the code does: generated pages, links, commands, names and recipes."""

import ast
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import get_args

import click
import numpy as np
import pytest
from plugin_site import STAGE, distribute

from farcluss.cli import BUILT_IN, farcluss
from farcluss.data.masks import build_mask_map
from farcluss.plugins import registry
from farcluss.recipes.model import Data, Recipe
from farcluss.recipes.reading import load_recipe
from farcluss.recipes.sections import Part, Section
from farcluss_medical.metrics import hd95, score, surface_distances
from farcluss_remote_sensing.scaling import Mode

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
EXAMPLE = DOCS / "examples" / "own_data.toml"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted(ROOT.glob("plugins/*/README.md"))]
DOMAINS = {
    "medical": {"network", "dataset", "writer"},
    "remote-sensing": {"network", "dataset", "writer"},
}
"""Kinds of parts of each domain plugin, by what follows `farcluss-` in its name."""


def reference_of(domain):
    return f"{domain.replace('-', '_')}_reference.md"


NO_PARTS = ("command", "init")
"""Groups of plugins that recipes do not name."""
GENERATED = ("recipe_reference.md", "cli_reference.md", "messages.md", *map(reference_of, DOMAINS))

HIDDEN = """
import importlib.metadata as metadata
found = metadata.Distribution.from_name.__func__
def from_name(kind, name):
    if name in ("farcluss-medical", "farcluss-remote-sensing"):
        raise metadata.PackageNotFoundError(name)
    return found(kind, name)
metadata.Distribution.from_name = classmethod(from_name)
"""
"""Run at the start of a process: as if the plugins were not installed."""


def page(name):
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(text, *languages):
    """Contents of the fenced code blocks in one of the languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [content for language, content in found if language in languages]


def prose(text):
    """A page without its fenced code blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def under(text, heading):
    """The part of a page from a heading to the next one."""
    assert f"\n{heading}\n" in text, f"no heading {heading!r}"
    return re.split(r"^#+ ", text.split(f"\n{heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def cells(text):
    """Rows of the tables in a text, by the first cell."""
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| ")]
    return {row[0].strip().strip("`"): [cell.strip() for cell in row[1:]] for row in rows}


class TestGenerated:
    def generate(self, script, *arguments, **environment):
        command = [sys.executable, str(script), *arguments]
        paths = [environment.pop("PYTHONPATH", ""), os.environ.get("PYTHONPATH", "")]
        path = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        return subprocess.run(command, capture_output=True, text=True, env=os.environ | path | environment)

    def copy(self, folder):
        shutil.copy(DOCS / "messages.py", folder)
        return shutil.copy(DOCS / "generate.py", folder)

    def test_pages_are_current_whatever_is_installed_and_however_wide_the_terminal(self, tmp_path):
        distribute(tmp_path, "fake-doc", {"weight/half": "fake_doc:Half", "command/odd": "fake_doc:odd"},
                   {"fake_doc": STAGE})  # fmt: skip
        result = self.generate(DOCS / "generate.py", "--check", PYTHONPATH=str(tmp_path), COLUMNS="40")
        assert (result.returncode, result.stderr) == (0, "")

    def test_check_names_stale_pages_and_a_run_mends_them(self, tmp_path):
        script = self.copy(tmp_path)
        stale = self.generate(script, "--check")
        assert stale.returncode == 1
        assert [name for name in GENERATED if name in stale.stderr] == list(GENERATED)
        assert not (tmp_path / GENERATED[0]).exists()
        assert self.generate(script).returncode == 0
        assert [(tmp_path / name).read_text() for name in GENERATED] == [page(name) for name in GENERATED]

    def sections(self):
        yield "## Top level", Recipe
        for key, field in Recipe.model_fields.items():
            if key != "name":
                yield f"## `[{key}]`", field.annotation

    @pytest.mark.parametrize("name", ["farcluss", "farcluss_medical", "farcluss_remote_sensing"])
    def test_every_message_is_short_and_whole(self, name):
        """One to three lines, and a full stop at the end but behind a command; blame is for what is broken alone."""
        package = pytest.importorskip(name)
        spec = importlib.util.spec_from_file_location("messages", DOCS / "messages.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found = list(module.messages(Path(package.__file__).parent))
        assert {message.file for message in found} >= {"farcluss": {"data/splits.py", "runs/checkpoints.py"}}.get(
            name, {"layouts.py", "writer.py"}
        )
        command = re.compile(r"(pip install|gdal\w+|rio|ogr2ogr|farcluss \w+|--set) \S.*$|--set data\.pack=$")
        for message in found:
            where, lines = f"{message.file}:{message.line}", message.text.splitlines()
            assert len(lines) <= 3, where
            assert message.text.endswith((".", "}")) or command.search(lines[-1]), where
            assert not re.search(r"\buninstall\b", message.text) or message.file == "plugins/registry.py", where

    def test_every_recipe_key_is_described(self):
        for heading, model in self.sections():
            rows = cells(under(page("recipe_reference.md"), heading))
            inner = [key for key, f in model.model_fields.items() if f.annotation is Part or not is_section(f)]
            assert set(inner) <= set(rows)
            assert [key for key in inner if not all(rows[key])] == []

    @pytest.mark.parametrize("group", [group for group in registry.GROUPS if group not in NO_PARTS])
    def test_every_plugin_and_option_is_described(self, group):
        found = [plugin for plugin in registry.find(group) if plugin.distribution == "farcluss"]
        assert found
        for plugin in found:
            text = under(page("recipe_reference.md"), f"### {group}/{plugin.name}")
            description = plugin.describe()
            assert description.summary in text
            rows = cells(text)
            assert [option for option in description.options if not all(rows[option])] == []

    @pytest.mark.parametrize("domain", DOMAINS)
    def test_every_part_of_a_domain_plugin_is_described(self, domain):
        parts = [part for part in registry.find() if part.distribution == f"farcluss-{domain}"]
        parts = [part for part in parts if part.group not in NO_PARTS]
        assert {part.group for part in parts} == DOMAINS[domain]
        for part in parts:
            text, description = under(page(reference_of(domain)), f"### {part.group}/{part.name}"), part.describe()
            assert description.summary in text
            rows = cells(text)
            assert [option for option in description.options if not all(rows[option])] == []

    def test_without_the_domain_plugins_their_pages_are_left_as_they_are(self, tmp_path):
        (tmp_path / "sitecustomize.py").write_text(HIDDEN)
        script = self.copy(tmp_path)
        result = self.generate(script, PYTHONPATH=str(tmp_path))
        assert result.returncode == 0
        for domain in DOMAINS:
            assert f"farcluss-{domain} is not installed" in result.stderr
            assert not (tmp_path / reference_of(domain)).exists()
        assert [(tmp_path / name).read_text() for name in GENERATED[:3]] == [page(name) for name in GENERATED[:3]]

    def test_every_command_and_option_is_listed(self):
        for name, command in tree():
            pages = {"medical": "medical_reference.md", "rs": "remote_sensing_reference.md"}
            rows = cells(under(page(pages.get(name.split()[1], "cli_reference.md")), f"## {name}"))
            first = " ".join(rows)
            options = [option for option in command.params if isinstance(option, click.Option)]
            assert [o.name for o in options if not all(spelling in first for spelling in o.opts)] == []


def is_section(field):
    return isinstance(field.annotation, type) and issubclass(field.annotation, Section)


def tree():
    """Every built-in command and sub-command by its full name, and those of the domain plugins."""
    for name in BUILT_IN:
        command = import_module(f"farcluss.cli.{name}").command
        yield f"farcluss {name}", command
        for sub, inner in getattr(command, "commands", {}).items():
            yield f"farcluss {name} {sub}", inner
    for group in ("medical", "rs"):
        command = registry.get("command", group).load()
        for sub in command.list_commands(click.Context(command)):
            yield f"farcluss {group} {sub}", command.get_command(click.Context(command), sub)


def anchors(path):
    """Anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", prose(path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
class TestPage:
    def test_internal_links_resolve(self, path):
        broken = []
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text(encoding="utf-8"))):
            if "://" in target:
                continue
            file, _, anchor = target.partition("#")
            there = (path.parent / file).resolve() if file else path
            if not there.exists() or (anchor and anchor not in anchors(there)):
                broken.append(target)
        assert broken == []

    def test_code_names_exist(self, path):
        names = re.findall(r"(farcluss/[\w/]+\.py)(?::([\w.]+\w))?", path.read_text(encoding="utf-8"))
        assert [f"{file}:{name}" for file, name in names if name not in defined(ROOT / file)] == []

    def test_commands_in_blocks_parse(self, path):
        text = path.read_text(encoding="utf-8")
        assert [problem for block in blocks(text, "bash", "sh", "console") for problem in shell_problems(block)] == []

    def test_commands_in_sentences_exist(self, path):
        spans = re.findall(r"`(farcluss\s[^`]+)`", prose(path.read_text(encoding="utf-8")))
        assert [problem for span in spans for problem in word_problems(span.split()[1:])] == []


@cache
def defined(path):
    """Names that a module defines: functions, classes, their methods and its variables; the empty name for the file."""
    names = {""}
    for node in ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else []:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names if path.is_file() else set()


def test_method_names_code_for_every_equation():
    parts = re.split(r"^## ", page("method.md"), flags=re.MULTILINE)
    silent = [part.partition("\n")[0] for part in parts if "(eq. " in part.partition("\n")[0]
              and not re.search(r"farcluss/[\w/]+\.py:\w+", part)]  # fmt: skip
    assert silent == []
    stated = " ".join(re.findall(r"^## .*\((eq\. .*)\)$", page("method.md"), re.MULTILINE))
    assert {int(number) for number in re.findall(r"\d+", stated)} == set(range(1, 13))


def invocations(block):
    """The arguments of each call of farcluss in a block of shell commands."""
    for line in block.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|;|\|", line.removeprefix("$ ")):
            tokens = shlex.split(part, comments=True)
            while tokens and re.fullmatch(r"\w+=.*", tokens[0]):
                tokens.pop(0)
            if tokens[:1] == ["farcluss"]:
                yield tokens[1:]
            elif "-m" in tokens and tokens[tokens.index("-m") + 1 :][:1] == ["farcluss"]:
                yield tokens[tokens.index("-m") + 2 :]


def shell_problems(block):
    """What is wrong with the calls of farcluss in a block: commands, options, missing or superfluous arguments."""
    return [problem for arguments in invocations(block) for problem in call_problems(arguments)]


def call_problems(arguments):
    command, name, rest = farcluss, "farcluss", list(arguments)
    while True:
        try:
            # A command keeps the help options of the first context that it meets.
            context = click.Context(command, info_name=name, **farcluss.context_settings)
            rest = getattr(command, "spread", list)(rest)  # of options that take several values
            values, rest, _ = command.make_parser(context).parse_args(rest)
        except click.UsageError as error:
            return [f"{arguments}: {error.format_message()}"]
        if values.keys() & {"help", "version"} or not (isinstance(command, click.Group) and rest):
            break
        name, *rest = rest
        command = command.get_command(click.Context(command), name)
        if command is None:
            return [f"{arguments}: no command {name}"]
    given = {key for key, value in values.items() if isinstance(value, str | tuple | list) and value}
    needed = [p.name for p in command.params if isinstance(p, click.Argument) and p.required]
    missing = [name for name in needed if name not in given and not values.get("help")]
    incomplete = isinstance(command, click.Group) and not command.invoke_without_command and not values
    return [f"{arguments}: superfluous {rest}" for _ in rest[:1]] + [f"{arguments}: lacks {n}" for n in missing] + [
        f"{arguments}: lacks a command" for _ in [0] if incomplete]  # fmt: skip


def word_problems(words):
    """What is wrong with a command that a sentence mentions, which may be shortened."""
    command, words = farcluss, list(words)
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        name = words.pop(0)
        command = command.get_command(click.Context(command), name)
        if command is None:
            return [f"no command {name}"]
    known = {spelling for option in command.params for spelling in (*option.opts, *option.secondary_opts)}
    return [f"no option {w}" for w in words if w.startswith("-") and w not in known | {"-h", "--help"}]


@pytest.mark.parametrize(
    "line",
    [
        "farcluss walk",
        "farcluss run",
        "farcluss run a.toml b.toml",
        "farcluss run a.toml --wit x",
        "farcluss run a.toml --set",
        "farcluss plugins",
        "farcluss plugins show",
        "cd x && python -m farcluss evil",
    ],
)
def test_wrong_commands_are_noticed(line):
    assert shell_problems(line)


@pytest.mark.parametrize(
    "line",
    [
        "farcluss --help",
        "farcluss lists",
        "FARCLUSS_PLUGINS= farcluss plugins list  # a remark",
        "accelerate launch --num_processes 2 -m farcluss run a.toml --resume --set x.y=1",
        "pip install -e . && accelerate launch -m farcluss run \\\n  a.toml",
    ],
)
def test_right_commands_pass(line):
    assert shell_problems(line) == []
    assert len(list(invocations(line))) == 1


class TestOwnData:
    def test_page_shows_the_example(self):
        assert EXAMPLE.read_text(encoding="utf-8") in blocks(page("own_data.md"), "toml")

    def test_example_loads_and_says_what_the_page_says(self):
        recipe = load_recipe(EXAMPLE, settings=["data.root=/data/fruit"])
        assert recipe.name == "own_data"
        assert (recipe.data.labeled, recipe.data.unlabeled, recipe.data.val) == ("all", "rest", "1/5")
        assert recipe.semi_supervised

    def test_example_names_its_own_launch(self):
        lines = [line.removeprefix("#").strip() for line in EXAMPLE.read_text(encoding="utf-8").splitlines()]
        calls = [call for line in lines if "farcluss " in line for call in invocations(line)]
        assert [call[0] for call in calls] == ["check", "run"]
        assert [problem for call in calls for problem in call_problems(call)] == []

    @pytest.mark.parametrize("number", range(len(blocks(page("own_data.md"), "toml")) - 1))
    def test_fragments_fit_the_example(self, number, tmp_path):
        fragments = [block for block in blocks(page("own_data.md"), "toml") if block != EXAMPLE.read_text()]
        overlay = tmp_path / "fragment.toml"
        overlay.write_text(fragments[number])
        assert load_recipe(EXAMPLE, [overlay]) != load_recipe(EXAMPLE)

    def test_class_tables_are_understood(self):
        rows = re.findall(r"^\|.*`(classes = .*)` \|$", page("own_data.md"), re.MULTILINE)
        assert len(rows) == 5
        for row in rows:
            data = Data.model_validate(tomllib.loads("\n".join(row.split("` and `"))))
            assert len(build_mask_map(data, {}).names) in (1, 2, 3)

    def test_masks_of_0_and_255(self):
        (row,) = re.findall(r"^\| 0 and 255.*`(classes.*)` \|$", page("own_data.md"), re.MULTILINE)
        table = build_mask_map(Data.model_validate(tomllib.loads(row)), {})
        assert dict(zip(table.codes.tolist(), table.targets.tolist(), strict=True)) == {0: 0, 255: 1}

    def test_settings_in_sentences_are_keys(self):
        text = page("own_data.md") + page("method.md") + page("medical.md") + page("remote_sensing.md")
        words = re.findall(r"`((?:data|train|eval|loss|network)\.(?!list|txt)\w+)", text)
        unknown = [w for w in words if w.split(".")[1] not in type(getattr(example(), w.split(".")[0])).model_fields]
        assert [word for word in unknown if not word.startswith("network.")] == []


class TestInstallation:
    FILES = [*PAGES, *sorted(ROOT.glob("recipes/**/*.toml")), ROOT / "recipes" / "README.md", ROOT / "CONTRIBUTING.md"]

    @pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
    def test_what_is_installed_is_there(self, path):
        """No index has farcluss or its plugins: commands name folders of a checkout, or folders at the git address."""
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        for command in re.findall(r"pip install ([^\n`]*)", text):
            for word in shlex.split(command.partition(" && ")[0].partition("|")[0], comments=True):
                name, _, address = word.partition(" @ git+https://")
                if address:
                    folder = ROOT / address.partition("#subdirectory=")[2]
                    assert tomllib.loads((folder / "pyproject.toml").read_text())["project"]["name"] == name
                elif word.startswith("farcluss-"):
                    assert word == "farcluss-nuclei"  # written by `plugins new` just before
                elif word.startswith(("plugins/", ".")):
                    assert (ROOT / word.partition("[")[0] / "pyproject.toml").is_file(), word


class TestScans:
    @pytest.fixture
    def recipe(self, tmp_path):
        shutil.copytree(ROOT / "recipes" / "base", tmp_path / "base")
        path = tmp_path / "scans.toml"
        path.write_text(blocks(page("medical.md"), "toml")[0])
        return path

    def test_the_short_recipe_loads(self, recipe):
        loaded = load_recipe(recipe)
        assert (loaded.name, loaded.data.layout.name, loaded.eval.writer) == ("scans", "scans", None)
        assert (loaded.network.name, loaded.stages.augment.name) == ("monai", "intensity")
        assert len([line for line in recipe.read_text().splitlines() if line.strip()]) == 8

    @pytest.mark.parametrize("number", [1, 2])
    def test_fragments_fit_it(self, number, recipe):
        fragment = recipe.with_name("fragment.toml")
        fragment.write_text(blocks(page("medical.md"), "toml")[number])
        assert load_recipe(recipe, [fragment]) != load_recipe(recipe)

    def test_every_layout_is_in_the_table(self):
        text = under(page("medical.md"), "## Which layout")
        layouts = [part.name for part in registry.find("dataset") if part.distribution == "farcluss-medical"]
        assert len(layouts) == 7
        assert [name for name in layouts if f"`{name}`" not in text] == []

    def test_two_definitions_of_hd95(self):
        place = np.indices((48, 48, 48))
        truth, ball = (sum((place[axis] - 24 - (axis == 0) * shift) ** 2 for axis in range(3)) <= radius**2
                       for radius, shift in ((10, 0), (9, 2)))  # fmt: skip
        cube = ball.copy()
        cube[2:6, 2:6, 2:6] = True
        rows = cells(under(page("medical.md"), "## Which number to report"))
        for name, mask in (("the two balls", ball), ("and a false cube of 4 x 4 x 4 voxels near a corner", cube)):
            sets = surface_distances(truth, mask, (1, 1, 1))
            assert rows[name] == [f"{hd95(*sets):.2f}", f"{hd95(*sets, pooled=True):.2f}"]

    @pytest.mark.parametrize(
        ("row", "protocol"),
        [("**farcluss**", "farcluss"), ("SSL4MIS, volumes (our `--protocol ssl4mis`)", "ssl4mis")],
    )
    def test_rules_for_empty_masks(self, row, protocol):
        words = {"nan": "left out", "5": "the image's diagonal", "0": "0"}
        empty, full = np.zeros((3, 4), bool), np.ones((3, 4), bool)
        told = [cell.replace("*", "").partition(";")[0]
                for cell in cells(under(page("medical.md"), "## Which number to report"))[row]]  # fmt: skip
        for cell, masks in zip(told, ((empty, empty), (full, empty), (empty, full)), strict=True):
            values = score(*masks, (1, 1), protocol=protocol).values
            assert cell == ", ".join(words[f"{values[name]:g}"] for name in ("dice", "hd95"))


class TestScenes:
    def test_the_recipe_loads(self, tmp_path):
        shutil.copytree(ROOT / "recipes" / "base", tmp_path / "base")
        path = tmp_path / "map.toml"
        path.write_text(blocks(page("remote_sensing.md"), "toml")[0])
        loaded = load_recipe(path)
        assert (loaded.data.layout.name, loaded.stages.augment.name) == ("scenes", "intensity")

    def test_every_layout_is_in_the_table(self):
        text = under(page("remote_sensing.md"), "## Which layout")
        layouts = [part.name for part in registry.find("dataset") if part.distribution == "farcluss-remote-sensing"]
        assert len(layouts) == 6
        assert [name for name in layouts if f"`{name}`" not in text] == []

    def test_every_scaling_is_in_the_table(self):
        table = cells(under(page("remote_sensing.md"), "## Bands"))
        assert set(table) - {"`scaling`", "scaling"} == set(get_args(Mode))


@cache
def example():
    return load_recipe(EXAMPLE)

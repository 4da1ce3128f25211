"""What commands are made of: the recipe, options, tables, files of results; and the command of the documentation."""

import json
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from commandline import cli
from plugin_site import distribute

from farcluss.cli import commands

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
COUNTING = """
    def images_of(data):
        return ["a.png", "[b].png"]

    def count(image):
        return {"image": image, "nuclei": 1200}
"""


@pytest.fixture
def nuclei(site):
    """The plugin whose commands docs/plugins.md shows."""
    text = PAGE.read_text(encoding="utf-8").partition("**command.**")[2].partition("## Testers")[0]
    group, count = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    modules = {"fake_nuclei.__init__": "", "fake_nuclei.counting": COUNTING}
    for name, source in (("cli.__init__", group), ("cli.count", count)):
        modules[f"fake_nuclei.{name}"] = source.replace("farcluss_nuclei", "fake_nuclei")
    distribute(site, "fake-nuclei", {"command/nuclei": "fake_nuclei.cli:command"}, modules)


class TestDocumentedCommand:
    def test_a_table_and_a_file(self, nuclei, tiny_recipe, tmp_path):
        result = cli("nuclei", "count", tiny_recipe, "-o", tmp_path / "counts", "--set", "train.steps=3")
        lines = [line.split() for line in result.out.splitlines()]
        assert lines == [["image", "nuclei"], ["a.png", "1,200"], ["[b].png", "1,200"]], result
        assert result.err == f"Wrote counts.json to {tmp_path / 'counts'}.\n"
        assert json.loads((tmp_path / "counts" / "counts.json").read_text())[1] == {"image": "[b].png", "nuclei": 1200}

    def test_json_and_no_file(self, nuclei, tiny_recipe):
        result = cli("nuclei", "count", tiny_recipe, "--json")
        assert json.loads(result.out)[0] == {"image": "a.png", "nuclei": 1200} and not result.err

    def test_what_is_wrong_is_said_as_everywhere(self, nuclei, tiny_recipe, tmp_path):
        assert "unknown key train.stps" in cli("nuclei", "count", tiny_recipe, "--set", "train.stps=3").err
        (tmp_path / "file").touch()
        result = cli("nuclei", "count", tiny_recipe, "-o", tmp_path / "file")
        assert result.code == 2 and "is a file" in result.err


def test_a_recipe_is_read_when_asked(tiny_recipe, tmp_path):
    @click.command()
    @commands.recipe_options
    @click.option("--more")
    def command(recipe, more):
        print(recipe, more, recipe.read().train.steps if more else "unread")

    def run(*words):
        return CliRunner().invoke(command, words, catch_exceptions=False).output

    assert run("gone.toml", "--with", "a", "--with", "b", "--set", "c=1", "--plugin", "d.py") == (
        "GivenRecipe(name='gone.toml', overlays=('a', 'b'), settings=('c=1',), plugins=('d.py',)) None unread\n"
    )
    (tmp_path / "local.py").write_text("print('ran')")
    given = ("--set", "train.steps=7", "--plugin", str(tmp_path / "local.py"), "--more", "x")
    output = run(str(tiny_recipe), *given)
    assert output.startswith("ran\n") and output.endswith(" x 7\n")
    assert re.findall(r"--\w+", run("--help")) == ["--with", "--set", "--plugin", "--more", "--help"]


class TestTables:
    HEADS = ("name", "size", "text")

    def test_numbers_are_to_the_right(self, capsys):
        commands.print_table(self.HEADS, [("a", "1", "x"), ("bcd", "1,000", "y z")], numbers=("size",))
        assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
            "name   size  text",
            "a         1  x",
            "bcd   1,000  y z",
        ]

    @pytest.mark.parametrize("numbers", [(), ("size",), ("size", "text")])
    def test_nothing_is_left_out_where_it_is_narrow(self, numbers, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "24")
        commands.print_table(self.HEADS, [("abc", "1,000,000", "0123456789" * 3)], numbers=numbers)
        out = capsys.readouterr().out
        assert all(len(line) <= 24 for line in out.splitlines())
        assert sum(map(str.isdigit, out)) == 37 and "…" not in out

    def test_a_row_is_a_line_in_a_file(self, capsys, monkeypatch):
        monkeypatch.delenv("COLUMNS", raising=False)
        commands.print_table(self.HEADS, [("a", "1", "word " * 30)])
        assert len(capsys.readouterr().out.splitlines()) == 2

    def test_at_least_so_wide(self, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "24")
        commands.print_table(self.HEADS, [("a", "1", "word " * 10)], least=100)
        assert len(capsys.readouterr().out.splitlines()) == 2

    @pytest.mark.parametrize(
        ("share", "text"), [(0.12345, "12.35"), (0, "0.00"), (None, "none"), (float("nan"), "none")]
    )
    def test_percent(self, share, text):
        assert commands.percent(share, "none") == text


@pytest.mark.parametrize(("count", "said"), [(20, ""), (23, "... and 3 more; --json lists all.")])
def test_a_few_problems_of_many(count, said, capsys):
    commands.list_problems([f"p{number}" for number in range(count)])
    lines = capsys.readouterr().err.splitlines()
    assert lines[:20] == [f"Problem: p{number}" for number in range(20)]
    assert lines[20:] == ([said] if said else [])


def test_reading_goes_to_the_end(capsys):
    seen = []
    commands.read_all(map(seen.append, range(3)), "reading", 3)
    commands.read_all(map(seen.append, range(3)), "quietly", 3, quiet=True)
    assert seen == [0, 1, 2, 0, 1, 2]
    out = capsys.readouterr().out
    assert "reading" in out and "quietly" not in out


def test_results(tmp_path, capsys):
    commands.write_results(tmp_path / "new", {"a.csv": "x,y\n", "b.json": {"x": [1]}})
    assert (tmp_path / "new" / "a.csv").read_text() == "x,y\n"
    assert (tmp_path / "new" / "b.json").read_text() == json.dumps({"x": [1]}, indent=2) + "\n"
    commands.write_results(None, {"c.csv": ""})
    assert capsys.readouterr().err == f"Wrote a.csv and b.json to {tmp_path / 'new'}.\n"


def test_the_first_lines_of_a_long_problem(capsys):
    commands.list_problems(["\n".join(f"line {number}" for number in range(9)), "short"])
    said = capsys.readouterr().err.splitlines()
    assert said[3:] == ["line 3", "... and 5 more like these; --json lists all.", "Problem: short"]

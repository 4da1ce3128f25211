"""Groups of commands that are imported when they are called: the helper that plugins build theirs with."""

import json
import re

import click
import pytest
from commandline import cli, python
from plugin_site import distribute

from farcluss.cli.groups import LazyGroup, lazy_group
from farcluss.plugins import registry

GROUP = """
    from farcluss.cli.groups import lazy_group

    COMMANDS = {"draw": "Draw outlines.", "count": "Count nuclei.", "gone": "Its module is missing."}

    @lazy_group("nuclei", "fake_nuclei", COMMANDS, epilog="Example: farcluss nuclei count image.png")
    def command():
        '''Look at nuclei before training.'''
"""
COUNT = """
    import click

    @click.command()
    @click.argument("image")
    def command(image):
        '''Count the nuclei of IMAGE.'''
        click.echo(f"counted {image}")
"""


@pytest.fixture
def nuclei(site):
    """A plugin with the command `nuclei`, of whose sub-commands one works, one is broken, and one is missing."""
    modules = {"fake_nuclei.__init__": GROUP, "fake_nuclei.count": COUNT, "fake_nuclei.draw": "1 / 0"}
    distribute(site, "fake-nuclei", {"command/nuclei": "fake_nuclei:command"}, modules)
    return site


class TestPlugin:
    def test_its_help_lists_the_commands_and_imports_none(self, nuclei):
        result = cli("nuclei", "--help")
        assert (result.code, result.err) == (0, "")
        lines = [line.strip() for line in result.out.splitlines()]
        listed = lines[lines.index("Commands:") + 1 :]
        assert listed[:3] == ["count  Count nuclei.", "draw   Draw outlines.", "gone   Its module is missing."]
        assert "Look at nuclei before training." in lines
        assert lines[-1] == "Example: farcluss nuclei count image.png"

    def test_a_command_runs(self, nuclei):
        assert cli("nuclei", "count", "a.png") == (0, "counted a.png\n", "")
        assert "Count the nuclei of IMAGE." in cli("nuclei", "count", "-h").out

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["cuont"], "There is no command 'cuont'; did you mean 'count'?"),
            (["zzzzz"], "There is no command 'zzzzz'."),
            (["--cuont"], "No such option '--cuont'"),
            (["count"], "Missing argument 'IMAGE'"),
            ([], "Commands:"),
        ],
    )
    def test_wrong_usage(self, nuclei, words, said):
        result = cli("nuclei", *words)
        assert result.code == 2 and said in result.err

    @pytest.mark.parametrize(("name", "said"), [("draw", "ZeroDivisionError"), ("gone", "fake_nuclei.gone")])
    def test_a_broken_command_breaks_no_other(self, nuclei, name, said):
        assert said in cli("nuclei", name).refusal
        assert cli("nuclei", "count", "a.png").code == 0

    def test_its_summary_is_read_without_an_import(self, nuclei):
        (row,) = [row for row in json.loads(cli("plugins", "list", "--json").out) if row["name"] == "nuclei"]
        assert (row["status"], row["summary"]) == ("ok", "Look at nuclei before training.")
        assert registry.get("command", "nuclei").peek() == row["summary"]
        assert re.search(r"^  nuclei +Look at nuclei before training\.$", cli("--help").out, re.MULTILINE)

    def test_one_that_is_broken_is_named_in_the_help(self, site):
        distribute(site, "farcluss-gone", {"command/gone": "fake_gone:command"}, {})
        result = cli("--help")
        assert result.code == 0 and "A command of farcluss-gone, which cannot be imported" in " ".join(
            result.out.split()
        )

    def test_completion_of_an_unfinished_word_fails_nowhere(self):
        group = lazy_group("nuclei", "fake_nowhere", {"count": ""})(lambda: None)
        context = click.Context(group, resilient_parsing=True)
        assert group.resolve_command(context, ["cou"])[1] is None


def test_groups_of_installed_plugins_import_no_command():
    """Not even of the plugin whose help is asked for."""
    groups = [plugin.name for plugin in registry.find("command") if plugin.distribution.startswith("farcluss-")]
    assert {"medical", "rs"} <= set(groups)
    for words in [[], *([name] for name in groups)]:
        code = (
            "import sys\nfrom farcluss.cli import farcluss\nfarcluss(sys.argv[1:], standalone_mode=False)\n"
            "print('loaded:', *(m for m in sys.modules if m.startswith('farcluss_')))\n"
            "print('heavy:', *{'torch', 'numpy', 'rasterio', 'nibabel'} & set(sys.modules))"
        )
        *shown, loaded, heavy = python(code, *words, "--help").out.splitlines()
        assert "Commands:" in shown and heavy == "heavy:"
        mine = {"medical": "farcluss_medical", "rs": "farcluss_remote_sensing"}.get("".join(words))
        assert loaded.split()[1:] == ([mine, f"{mine}.cli"] if mine else [])


def test_every_command_that_a_group_lists_is_called_that():
    """Of the plugins of this repository whose modules are written."""
    group = registry.get("command", "medical").load()
    assert isinstance(group, LazyGroup)
    context = click.Context(group)
    names = group.list_commands(context)
    assert names == sorted(names) and len(names) == 4
    assert all(isinstance(group.get_command(context, name), click.Command) for name in names)
    assert group.get_command(context, "nothing") is None

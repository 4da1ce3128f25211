"""What plugins may import: the tables of docs/plugins.md, which exist and which suffice."""

import re
from importlib import import_module

import pytest
from rooms import ROOT, imports

import farcluss

PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## What a plugin may import")[2]
STABLE, FURTHER = (
    {name for line in part.splitlines() if line.startswith("| `") for name in re.findall(r"`(farcluss[\w.]*)`", line)}
    for part in SECTION.partition("\n## ")[0].split("The plugins for scans and scenes")
)
OWN = {path.name: path for path in ROOT.glob("plugins/*/farcluss_*")} | {
    "template": ROOT / "farcluss" / "templates" / "plugin"
}


def used_by(folder):
    """Modules of farcluss that Python files of a plugin import; what they take from a module is not one."""
    found = {name for path in folder.rglob("*.py") for name in imports(path) if name.partition(".")[0] == "farcluss"}
    return {
        name for name in found if (ROOT / name.replace(".", "/")).with_suffix(".py").is_file() or name == "farcluss"
    }


def test_the_tables_are_read():
    assert "farcluss.stages.base" in STABLE and "farcluss.data.layouts" in FURTHER and not STABLE & FURTHER


@pytest.mark.parametrize("module", sorted(STABLE | FURTHER))
def test_a_listed_module_exists(module):
    assert import_module(module).__doc__


@pytest.mark.parametrize(("plugin", "allowed"), [("farcluss_example", STABLE), ("template", STABLE)] + [
    (name, STABLE | FURTHER) for name in ("farcluss_medical", "farcluss_remote_sensing")
])  # fmt: skip
def test_a_plugin_imports_no_others(plugin, allowed):
    used = used_by(OWN[plugin])
    assert used and used - allowed == set()


def test_every_further_module_has_a_user():
    """A plugin of this repository, or another section of the page."""
    used = set().union(*map(used_by, OWN.values()))
    assert {name for name in FURTHER - used if PAGE.count(f"{name}") < 2} == set()


def test_the_page_names_no_others():
    named = {name for name in re.findall(r"\b(farcluss(?:\.[a-z_0-9]+)+)", PAGE)}
    modules = {name for name in named if (ROOT / name.replace(".", "/")).with_suffix(".py").is_file()}
    assert modules - STABLE - FURTHER == set()


def test_names_of_the_table_exist():
    for line in SECTION.partition("The plugins for scans")[0].splitlines():
        if line.startswith("| `"):
            module, _, has = line.strip("| ").split(" | ")
            home = import_module(module.strip("`"))
            assert [name for name in re.findall(r"`(\w+)`", has) if not hasattr(home, name)] == []


def test_the_package_itself_stays_small():
    assert len(farcluss.__all__) <= 10

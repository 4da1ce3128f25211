"""`farcluss plugins`, and the template from `plugins new` to an uninstalled plugin."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import distributions
from pathlib import Path

import pytest
from click.testing import CliRunner
from plugin_site import STAGE, distribute

import farcluss as package
from farcluss.cli import farcluss
from farcluss.cli.plugins import TEMPLATE
from farcluss.errors import PluginError
from farcluss.plugins import registry

ROOT = Path(__file__).parents[2]


def invoke(*arguments):
    """Through the whole command line: Click keeps the first help option of a command, which the group decides on."""
    result = CliRunner().invoke(farcluss, ["plugins", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def rows(*arguments):
    return {(row["group"], row["name"]): row for row in json.loads(invoke("list", "--json", *arguments).stdout)}


class TestList:
    def test_every_entry_point_is_there(self):
        assert set(rows()) == {(plugin.group, plugin.name) for plugin in registry.find()}
        assert rows()["weight", "entropy"] == {
            "group": "weight",
            "name": "entropy",
            "distribution": "farcluss",
            "version": registry.get("weight", "entropy").version,
            "summary": "Weight that decreases with the teacher's entropy.",
            "status": "ok",
            "error": "",
        }

    def test_table_has_one_line_per_plugin_when_piped(self, monkeypatch):
        monkeypatch.delenv("COLUMNS", raising=False)
        lines = invoke("list").stdout.splitlines()
        assert lines[0].split() == ["group", "name", "distribution", "version", "status", "summary"]
        (line,) = [line for line in lines if line.startswith("weight ") and " entropy " in line]
        assert "ok" in line.split() and line.rstrip().endswith("the teacher's entropy.")

    def test_status_without_an_import(self, site):
        targets = {"gone": "no_module:X", "attr": "fake_a:Gone", "syntax": "fake_b:X", "raises": "fake_c:Half"}
        targets |= {"elsewhere": "fake_d:X", "fine": "fake_a:Half"}
        modules = {
            "fake_a": STAGE,
            "fake_b": "def (",
            "fake_c": "class Half: '''H.'''\n1 / 0",
            "fake_d": "from a import X",
        }
        distribute(site, "fake-many", {f"weight/{name}": target for name, target in targets.items()}, modules)
        found = {name: rows()["weight", name]["status"] for name in targets}
        assert found == {
            "gone": "broken",
            "attr": "broken",
            "syntax": "broken",
            "raises": "ok",
            "elsewhere": "unchecked",
            "fine": "ok",
        }
        assert not [name for name in sys.modules if name.startswith("fake_")]
        assert "fake-many" in rows()["weight", "gone"]["error"] and "no_module" in rows()["weight", "gone"]["error"]

    def test_load_marks_what_raises(self, site):
        modules = {"fake_e": "class Half: '''H.'''\n1 / 0"}
        distribute(site, "fake-many", {"weight/raises": "fake_e:Half"}, modules)
        row = rows("--load")["weight", "raises"]
        assert (row["status"], row["summary"]) == ("broken", "H.")
        assert "fake-many" in row["error"] and "ZeroDivisionError" in row["error"]
        assert rows("--load")["weight", "entropy"]["status"] == "ok"
        assert "ZeroDivisionError" in invoke("list", "--load").stdout

    def test_collisions_are_marked(self, site):
        distribute(site, "fake-one", {"weight/entropy": "fake_one:Half"}, {"fake_one": STAGE})
        found = [row for row in json.loads(invoke("list", "--json").stdout) if row["status"] == "collision"]
        assert {(row["name"], row["distribution"]) for row in found} == {
            ("entropy", "farcluss"),
            ("entropy", "fake-one"),
        }
        assert invoke("list").stdout.count("Two plugins are called weight/entropy") == 1

    def test_imports_nothing_heavy(self):
        code = (
            "import sys\nfrom farcluss.cli.plugins import command\n"
            "command(['list'], standalone_mode=False)\n"
            "print('heavy:', sorted({'torch', 'kornia', 'timm', 'pydantic', 'numpy'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert "entropy" in done.stdout and done.stdout.endswith("heavy: []\n")


class TestShow:
    def test_text(self):
        shown = invoke("show", "weight/entropy").stdout
        assert "H = -sum_c p_c log p_c / log C" in shown
        for word in ("float in [0, 1]", "float > 0", '"linear", "power"', "false", "exponent of `power`."):
            assert word in shown
        assert "Args:" not in shown

    def test_json(self):
        shown = json.loads(invoke("show", "pseudo_label/fuzzy", "--json").stdout)
        assert shown["options"] == [
            {
                "name": "top_k",
                "type": "int >= 1",
                "required": False,
                "help": "K, the number of classes kept per pixel; 1 gives hard labels.",
                "default": 3,
            }
        ]
        assert (shown["distribution"], shown["any_option"]) == ("farcluss", False)
        assert "eq" in shown["doc"].lower()

    def test_no_options(self):
        assert "No options." in invoke("show", "weight/uniform").stdout

    def test_refusals(self):
        assert invoke("show", "entropy").exit_code == 2
        with pytest.raises(PluginError, match="did you mean 'weight'"):
            invoke("show", "wieght/entropy")
        with pytest.raises(PluginError, match="did you mean 'entropy'"):
            invoke("show", "weight/entropi")


class TestNew:
    def test_writes_no_placeholder(self, tmp_path):
        folder = tmp_path / "here" / "it"
        shown = invoke("new", "cell-nuclei", "--folder", folder).stdout
        files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert files == {
            "README.md",
            "pyproject.toml",
            "recipe.toml",
            "farcluss_cell_nuclei/__init__.py",
            "farcluss_cell_nuclei/dataset.py",
            "farcluss_cell_nuclei/weight.py",
            "tests/test_plugin.py",
        }
        assert not [path for path in folder.rglob("*") if path.is_file() and "NAME" in path.read_text()]
        readme = (folder / "README.md").read_text()
        for step in ("pip install -e", "farcluss plugins list", "farcluss run"):
            assert step in readme and step in shown

    def test_template_ships_with_the_package(self):
        assert TEMPLATE.is_relative_to(Path(package.__file__).parent)

    def test_default_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        invoke("new", "nuclei")
        assert (tmp_path / "farcluss-nuclei" / "farcluss_nuclei" / "weight.py").is_file()

    @pytest.mark.parametrize("name", ["Nuclei", "a_b", "-a", "a-", "a--b", "1a", "a b", "a/b", "../a", "é", ""])
    def test_names_that_cannot_be(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert invoke("new", "--", name).exit_code == 2
        assert not list(tmp_path.iterdir())

    def test_refuses_an_existing_folder(self, tmp_path):
        with pytest.raises(PluginError, match="exists already"):
            invoke("new", "nuclei", "--folder", tmp_path)

    def test_refuses_a_taken_name(self, tmp_path):
        with pytest.raises(PluginError, match="weight/entropy exists already, in farcluss"):
            invoke("new", "entropy", "--folder", tmp_path / "new")


def environment(folder):
    """Python of a fresh environment that sees, but does not own, everything installed here."""
    # By metadata: looking for the module switches off setuptools' distutils here, which `torch.compile` needs later.
    venv.create(folder, with_pip=not list(distributions(name="pip")))
    paths = {"base": str(folder), "platbase": str(folder)}
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    there = Path(sysconfig.get_path("purelib", "venv", paths))
    (there / "here.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in sorted(here)))
    return Path(sysconfig.get_path("scripts", "venv", paths)) / "python"


@pytest.mark.slow
def test_new_plugin_end_to_end(tmp_path):
    """Written, installed, listed, tested, used in a run, uninstalled, unknown."""
    python = environment(tmp_path / "env")

    def call(*arguments, fails=False):
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        done = subprocess.run([python, "-m", *arguments], capture_output=True, text=True, cwd=tmp_path, env=variables)
        assert (done.returncode != 0) == fails, f"{arguments} exits with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    settings = ("train.steps=2", "loss.warmup_steps=0", "loss.ramp_steps=1", "eval.every=2")
    short = [word for setting in settings for word in ("--set", setting)]
    call("farcluss", "plugins", "new", "cell-nuclei", "--folder", "plugin")
    call("pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "./plugin")
    found = {(row["group"], row["name"]): row for row in json.loads(call("farcluss", "plugins", "list", "--json"))}
    for group in ("weight", "dataset"):
        assert (found[group, "cell-nuclei"]["distribution"], found[group, "cell-nuclei"]["status"]) == (
            "farcluss-cell-nuclei",
            "ok",
        )
    call("pytest", "-q", "-p", "no:cacheprovider", "plugin/tests")
    call("farcluss", "run", "plugin/recipe.toml", *short)
    assert len(list(tmp_path.rglob("last.safetensors"))) == 1
    call("pip", "uninstall", "--yes", "farcluss-cell-nuclei")
    refused = call("farcluss", "run", "plugin/recipe.toml", *short, fails=True)
    assert "no weight plugin 'cell-nuclei'" in refused and "no dataset plugin 'cell-nuclei'" in refused
    assert "Traceback" not in refused

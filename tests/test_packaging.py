"""What the wheel holds, and what pyproject.toml promises."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_recipes_templates_and_tables_ship_inside_the_wheel(wheel):
    names = set(wheel.namelist())
    for path in (ROOT / "recipes").rglob("*.toml"):
        assert f"farcluss/_recipes/{path.relative_to(ROOT / 'recipes').as_posix()}" in names
    for path in (ROOT / "farcluss").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.relative_to(ROOT).as_posix() in names
    assert not [name for name in names if name.startswith(("tests", "docs", "plugins", "benchmarks"))]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_recipes_are_found_in_an_installed_wheel(wheel, tmp_path):
    wheel.extractall(tmp_path)
    code = "from farcluss.recipes import reading as r; print(r.__file__); print(r.load_recipe('quickstart').name)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tmp_path / "farcluss" / "recipes" / "reading.py"), "quickstart"]


def test_every_entry_point_loads():
    points = [(g, name, target) for g, group in PROJECT["entry-points"].items() for name, target in group.items()]
    assert len(points) >= 18
    for _, _, target in points:
        module, attribute = target.split(":")
        assert callable(getattr(import_module(module), attribute))


def test_every_bound_has_its_reason():
    text = (ROOT / "pyproject.toml").read_text()
    block = text[text.index("\ndependencies = [") : text.index("[project.optional-dependencies]")]
    lines = [line for line in block.splitlines() if line.strip().startswith('"')]
    assert len(lines) == len(PROJECT["dependencies"])
    assert all(re.search(r'",?\s+# \S+', line) for line in lines)
    assert set(PROJECT["optional-dependencies"]) == {
        "test", "docs", "tensorboard", "wandb", "onnx", "smp", "report", "annotations"
    }  # fmt: skip


def test_no_build_of_a_library_is_pinned():
    for dependency in PROJECT["dependencies"]:
        assert "==" not in dependency and "+cpu" not in dependency


def test_the_readme_has_both_commands_and_the_gate_finds_the_tests():
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", readme, re.DOTALL)
    first = "pip install -e . && accelerate launch -m farcluss run recipes/quickstart.toml"
    assert blocks[0].strip().endswith(first) and blocks[0].startswith("python3 -m venv")
    tests = re.search(r"## Tests\n.*?```bash\n(.*?)```", readme, re.DOTALL)[1].strip()
    installed = "-e '.[test]' -e plugins/example -e 'plugins/medical[test]' -e 'plugins/remote-sensing[test]'"
    assert tests.endswith(f"{installed} && pytest -n 2 --dist loadfile")
    assert tests.startswith("python3 -m venv")

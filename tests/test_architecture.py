"""Imports point down, from room to room; see docs/architecture.md. The table itself is in `rooms.py`."""

import ast
import re

import pytest
from rooms import MAY_IMPORT, NO_ROOMS, ROOT, circle, group, imports, levels, module_graph, modules, room

PACKAGE = ROOT / "farcluss"
MODULES = modules(PACKAGE)
GRAPH = module_graph(PACKAGE)
PLUGINS = {path.name: path for path in sorted(ROOT.glob("plugins/*/farcluss_*")) if path.is_dir()}
# What single files may not import although their room may.
NARROWER = {
    "farcluss.data.base": {"recipes", "errors"},
    "farcluss.stages.intensity": set(),
    "farcluss.learning.losses": {"data", "stages", "tensors"},
    "farcluss.learning.dice": {"tensors"},
    "farcluss.learning.averaging": set(),
    "farcluss.runs.background": set(),
    "farcluss.runs.atomic": set(),
    "farcluss.training.startup": set(),
    "farcluss.networks.base": {"tensors"},
    "farcluss.plugins.options": set(),
}
# Who may import what everybody else may not.
ONLY = {
    "farcluss.cli": {"farcluss.__main__", "farcluss.cli"},
    "farcluss.training.engine": {"farcluss.cli", "farcluss.jobs"},
    "accelerate": {"farcluss.training.engine", "farcluss.jobs.launching"},
    "kornia": {"farcluss.stages.augment"},
    "torchvision": {"farcluss.stages.operations"},
    "timm": {"farcluss.networks"},
    "segmentation_models_pytorch": {"farcluss.networks.smp"},
    "click": {"farcluss.cli"},
    "rich": {"farcluss.cli", "farcluss.training.display"},
    "matplotlib": {"farcluss.reports.charts"},
    "h5py": {"farcluss.data.pack", "farcluss.jobs.packing"},
}


def below(name, parent):
    return name == parent or name.startswith(f"{parent}.")


@pytest.mark.parametrize("module", MODULES)
def test_no_relative_imports(module):
    nodes = ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8")))
    assert [node.lineno for node in nodes if isinstance(node, ast.ImportFrom) and node.level] == []


def test_every_file_is_in_a_room():
    rooms = {path.stem for path in PACKAGE.iterdir() if not path.name.startswith("__pycache__")}
    assert rooms - {"py"} == {*MAY_IMPORT, *NO_ROOMS}
    assert [path.name for path in PACKAGE.glob("*.py") if path.stem not in ("errors", "__init__", "__main__")] == []


def test_tests_mirror_the_rooms():
    assert {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()} - {"__pycache__"} <= set(MAY_IMPORT)


def test_a_room_imports_what_the_table_allows_and_the_table_allows_no_more():
    assert {name: others for name, others in group(GRAPH, room).items() if name in MAY_IMPORT} == MAY_IMPORT


def test_the_table_leads_downward():
    """From top to bottom as it is written: so a reader can trust its order."""
    order = list(MAY_IMPORT)
    assert [(a, b) for a, others in MAY_IMPORT.items() for b in others if order.index(b) <= order.index(a)] == []
    assert max(levels(MAY_IMPORT).values()) <= 10


@pytest.mark.parametrize("package", [PACKAGE, *PLUGINS.values()], ids=lambda path: path.name)
def test_no_file_imports_itself_by_way_of_others(package):
    assert circle(module_graph(package)) == []


@pytest.mark.parametrize("module", NARROWER)
def test_a_file_imports_less_than_its_room_may(module):
    own = room(module)
    assert {room(other) for other in GRAPH[module]} - {own} <= NARROWER[module] < MAY_IMPORT[own]


@pytest.mark.parametrize("thing", ONLY)
def test_who_may_import_what_others_may_not(thing):
    users = {module for module, path in MODULES.items() if any(below(name, thing) for name in imports(path))}
    assert users - {thing}, "nobody imports it: the rule has lost its object"
    assert {user for user in users if not any(below(user, one) for one in ONLY[thing])} == set()


def test_stages_know_no_model_recipe_or_accelerator():
    words = re.compile(r"\b(accelerate|Accelerator|load_recipe|deeplabv3plus|Learner)\b")
    found = {m: words.findall(p.read_text(encoding="utf-8")) for m, p in MODULES.items() if below(m, "farcluss.stages")}
    assert {module: names for module, names in found.items() if names} == {}


def test_the_package_mentions_no_domain_library():
    files = [p for p in PACKAGE.rglob("*") if p.is_file() and p.suffix in {".py", ".toml", ".md"}]
    pattern = re.compile("monai|nibabel|nifti|rasterio|geotiff", re.IGNORECASE)
    assert [str(path) for path in files if pattern.search(path.read_text(encoding="utf-8"))] == []


def test_only_the_command_line_exits():
    pattern = re.compile(r"\bsys\.exit\(|\braise SystemExit\b|\bos\._exit\(")
    exiting = {module for module, path in MODULES.items() if pattern.search(path.read_text(encoding="utf-8"))}
    assert {module for module in exiting if not below(module, "farcluss.cli")} == set()

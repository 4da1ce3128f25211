"""Imports point one way; see docs/architecture.md."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "farcluss"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "templates" not in path.parts
}
# What a module, and everything below it, may import of farcluss, itself apart.
MAY_IMPORT = {
    "farcluss.errors": set(),
    "farcluss.plugins.options": set(),
    "farcluss.tensors.draws": set(),
    "farcluss.runs.atomic": set(),
    "farcluss.learning.averaging": set(),
    "farcluss.tensors.timing": set(),
    "farcluss.tensors.chunks": set(),
    "farcluss.runs.background": set(),
    "farcluss.training.startup": set(),
    "farcluss.tensors.distributed": {"errors"},
    "farcluss.training.interruption": {"distributed"},
    "farcluss.runs.lock": {"errors"},
    "farcluss.runs.checkpoints": {"atomic", "errors"},
    "farcluss.data.base": {"errors"},
    "farcluss.stages": {"losses", "chunks", "distributed", "draws", "options", "errors", "data.base"},
    "farcluss.stages.intensity": set(),
    "farcluss.learning.contracts": {"stages.base", "timing", "errors"},
    "farcluss.learning.losses": {"stages.base", "chunks", "distributed", "data.base"},
    "farcluss.networks": {"options", "errors"},
    "farcluss.learning.dice": {"losses", "chunks"},
    "farcluss.learning.batches": {"stages.base"},
    "farcluss.inference.probs": {"losses"},
    "farcluss.data": {"recipe", "options", "errors"},
    "farcluss.inference.evaluation": {"data", "inference", "distributed", "errors"},
    "farcluss.jobs.packing": {"build", "data", "evaluation", "recipe", "atomic", "errors"},
    "farcluss.learning.learner": {
        "batches",
        "contracts",
        "stages",
        "networks.base",
        "losses",
        "dice",
        "distributed",
        "recipe",
        "timing",
        "errors",
        "data.base",
    },
    "farcluss.training.optimization": {"recipe"},
}
# Who may import what everybody else may not.
ONLY = {
    "farcluss.cli": {"farcluss.__main__", "farcluss.cli"},
    "farcluss.training.engine": {
        "farcluss",
        "farcluss.cli",
        "farcluss.jobs.checking",
        "farcluss.jobs.benching",
        "farcluss.jobs.trial",
    },
    "accelerate": {"farcluss.training.engine"},
    "kornia": {"farcluss.stages.augment"},
    "timm": {"farcluss.networks"},
    "segmentation_models_pytorch": {"farcluss.networks.smp"},
    "click": {"farcluss.cli"},
    "rich": {"farcluss.cli", "farcluss.training.display"},
    "h5py": {"farcluss.data.pack", "farcluss.jobs.packing"},
}


@cache
def imports(module):
    """Full names that a module imports, anywhere in it, but not for type checkers alone."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in full}
    return found


def below(name, parent):
    return name == parent or name.startswith(f"{parent}.")


@pytest.mark.parametrize("module", MODULES)
def test_no_relative_imports(module):
    nodes = ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8")))
    assert [node.lineno for node in nodes if isinstance(node, ast.ImportFrom) and node.level] == []


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_a_layer_imports_only_what_lies_below(layer):
    allowed = {layer, *(f"farcluss.{name}" for name in MAY_IMPORT[layer])}
    members = [module for module in MODULES if below(module, layer)]
    assert members
    wrong = {
        (module, name)
        for module in members
        for name in imports(module)
        if below(name, "farcluss") and not any(below(name, parent) for parent in allowed)
    }
    assert wrong == set()


@pytest.mark.parametrize("thing", ONLY)
def test_who_may_import_what_others_may_not(thing):
    users = {module for module in MODULES if any(below(name, thing) for name in imports(module))}
    assert users - {thing}, "nobody imports it: the rule has lost its object"
    strangers = {u for u in users if not any(u == o or (o != "farcluss" and below(u, o)) for o in ONLY[thing])}
    assert strangers == set()


def test_networks_know_no_recipe():
    for module in MODULES:
        if below(module, "farcluss.networks"):
            nodes = ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8")))
            names = [a.name for n in nodes if isinstance(n, ast.ImportFrom) and n.module == "farcluss.recipes.model"
                     for a in n.names]  # fmt: skip
            assert names == []


def test_stages_know_no_model_recipe_or_accelerator():
    words = re.compile(r"\b(accelerate|Accelerator|load_recipe|deeplabv3plus|Learner)\b")
    found = {m: words.findall(p.read_text(encoding="utf-8")) for m, p in MODULES.items() if below(m, "farcluss.stages")}
    assert {module: names for module, names in found.items() if names} == {}


def test_the_package_mentions_no_domain_library():
    files = [p for p in PACKAGE.rglob("*") if p.is_file() and p.suffix in {".py", ".toml", ".md"}]
    pattern = re.compile("monai|nibabel|nifti|rasterio|geotiff", re.IGNORECASE)
    assert [str(path) for path in files if pattern.search(path.read_text(encoding="utf-8"))] == []


def test_only_the_command_line_exits():
    pattern = re.compile(r"\bsys\.exit\(|\bSystemExit\b|\bos\._exit\(")
    exiting = {module for module, path in MODULES.items() if pattern.search(path.read_text(encoding="utf-8"))}
    assert {module for module in exiting if not below(module, "farcluss.cli")} == set()

"""The rooms of the package, as data: what each may import.

`python tests/rooms.py [CHECKOUT]` prints what they do import, and on how many levels.
"""

import ast
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
Graph = dict[str, set[str]]

MAY_IMPORT: Graph = {
    "cli": {"jobs", "training", "learning", "inference", "runs", "data", "recipes", "plugins", "errors"},
    "jobs": {
        "annotations",
        "training",
        "learning",
        "inference",
        "runs",
        "reports",
        "data",
        "networks",
        "recipes",
        "tensors",
        "plugins",
        "errors",
    },
    "training": {"learning", "inference", "runs", "data", "networks", "recipes", "tensors", "errors"},
    "learning": {"inference", "data", "stages", "networks", "recipes", "tensors", "plugins", "errors"},
    "inference": {"annotations", "runs", "data", "networks", "recipes", "tensors", "plugins", "errors"},
    "runs": {"data", "recipes", "errors"},
    "reports": set(),
    "annotations": {"data", "recipes", "plugins", "errors"},
    "testing": {"data", "stages", "recipes", "plugins", "errors"},
    "data": {"recipes", "plugins", "errors"},
    "stages": {"tensors", "plugins", "errors"},
    "networks": {"tensors", "plugins", "errors"},
    "recipes": {"plugins", "errors"},
    "tensors": {"errors"},
    "plugins": {"errors"},
    "errors": set(),
}
"""From top to bottom. A folder or file at `farcluss/` that is not here is in no room."""
NO_ROOMS = {"__init__", "__main__", "templates"}
"""What lies beside the rooms: the two doors of the package, and files that `plugins new` copies."""


def modules(package: Path) -> dict[str, Path]:
    """Files of a package by full name; templates apart, which are no part of it."""
    files = [path for path in sorted(package.rglob("*.py")) if "templates" not in path.relative_to(package).parts]
    names = [".".join(path.relative_to(package.parent).with_suffix("").parts) for path in files]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, files, strict=True)}


@cache
def imports(path: Path) -> set[str]:
    """Full names that a file imports, anywhere in it, but not for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    hidden = {id(inner) for node in typing for inner in ast.walk(node)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def module_graph(package: Path) -> Graph:
    """Which modules of a package each of them imports; the packages that it lies in apart."""
    known = modules(package)
    return {
        name: {other for other in imports(path) if other in known and not f"{name}.".startswith(f"{other}.")}
        for name, path in known.items()
    }


def group(graph: Graph, key: Callable[[str], str]) -> Graph:
    """The graph of groups of modules."""
    grouped: Graph = {key(name): set() for name in graph}
    for name, others in graph.items():
        grouped[key(name)] |= {key(other) for other in others} - {key(name)}
    return grouped


def room(name: str) -> str:
    """The first part of a module's name below the package."""
    return name.split(".")[1] if "." in name else "__init__"


def circle(graph: Graph) -> list[str]:
    """A circle of imports, first and last the same; empty for none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def levels(graph: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """How many imports lie one below the other under each node, itself counted."""
    found: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        found[name] = 1 + max((found[other] for other in graph.get(name, ())), default=0)
    return found


def main(root: Path) -> None:
    """Print the rooms, their levels, and every import that the table does not allow."""
    package = root / "farcluss"
    graph = module_graph(package)
    rooms = group(graph, room)
    files: dict[str, list[Path]] = {}
    for name, path in modules(package).items():
        files.setdefault(room(name), []).append(path)
    if found := circle(rooms):
        print("rooms import each other in a circle:", " -> ".join(found))
        order, level = list(rooms), dict.fromkeys(rooms, 0)
    else:
        level = levels(rooms)
        order = sorted(rooms, key=lambda name: (-level[name], name))
    for name in order:
        lines = sum(path.read_text(encoding="utf-8").count("\n") for path in files[name])
        below = ", ".join(sorted(rooms[name], key=lambda other: (-level[other], other))) or "nothing"
        print(f"{level[name] or '-':>2} {name:12} {len(files[name]):3} files {lines:5} lines  imports {below}")
    forbidden = sorted((a, b) for a in rooms.keys() & MAY_IMPORT.keys() for b in rooms[a] - MAY_IMPORT[a])
    print(f"{len(rooms)} rooms, {max(level.values()) or 'no'} levels of rooms, {max(levels(graph).values())} of files")
    print(f"imports that the table does not allow: {len(forbidden)} {', '.join(map(' <- '.join, forbidden))}")
    print(f"in no room: {len(set(rooms) - set(MAY_IMPORT) - NO_ROOMS)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)

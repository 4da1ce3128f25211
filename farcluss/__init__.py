"""farcluss: semi-supervised semantic segmentation.

Importing this package imports nothing heavy; each public name loads its module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "FarclussError": "farcluss.errors",
    "Recipe": "farcluss.recipe",
    "load_recipe": "farcluss.reading",
    "train": "farcluss.engine",
    "evaluate": "farcluss.evaluation",
    "load": "farcluss.weights",
    "Model": "farcluss.weights",
    "register": "farcluss.plugins",
}

__all__ = [*_PUBLIC, "__version__"]

if TYPE_CHECKING:
    from farcluss.engine import train as train
    from farcluss.errors import FarclussError as FarclussError
    from farcluss.evaluation import evaluate as evaluate
    from farcluss.plugins import register as register
    from farcluss.reading import load_recipe as load_recipe
    from farcluss.recipe import Recipe as Recipe
    from farcluss.weights import Model as Model
    from farcluss.weights import load as load


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'farcluss' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

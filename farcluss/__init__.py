"""farcluss: semi-supervised semantic segmentation.

Importing this package imports nothing heavy; each public name loads its module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "FarclussError": "farcluss.errors",
    "Recipe": "farcluss.recipes.model",
    "load_recipe": "farcluss.recipes.reading",
    "train": "farcluss.training.engine",
    "evaluate": "farcluss.inference.evaluation",
    "load": "farcluss.inference.weights",
    "Model": "farcluss.inference.weights",
    "register": "farcluss.plugins.registry",
}

__all__ = [*_PUBLIC, "__version__"]

if TYPE_CHECKING:
    from farcluss.errors import FarclussError as FarclussError
    from farcluss.inference.evaluation import evaluate as evaluate
    from farcluss.inference.weights import Model as Model
    from farcluss.inference.weights import load as load
    from farcluss.plugins.registry import register as register
    from farcluss.recipes.model import Recipe as Recipe
    from farcluss.recipes.reading import load_recipe as load_recipe
    from farcluss.training.engine import train as train


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'farcluss' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

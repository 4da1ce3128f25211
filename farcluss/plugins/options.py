"""Types for the options of plugins: constrained numbers and small tuples that a recipe can contain.

This module imports neither torch nor any plugin, so that options can be read and checked before either is loaded.
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, ValidationInfo
from pydantic_core import PydanticCustomError


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("the lower bound comes first")
    return bounds


def no_bool_for_a_number(cls: Any, value: Any, info: ValidationInfo) -> Any:
    """Refuse `true` where a number is wanted, which Python would read as 1; a validator of every field of a model."""
    values = value if isinstance(value, list) else [value]
    if any(isinstance(each, bool) for each in values) and not _takes_bool(cls.model_fields[info.field_name].annotation):
        raise PydanticCustomError("bool", "Input should be a number")
    return value


def _takes_bool(kind: Any) -> bool:
    """Whether a type has a place for a bool."""
    return kind in (bool, Any, object, list, tuple) or any(map(_takes_bool, get_args(kind)))


Share = Annotated[float, Field(ge=0, le=1)]
"""A share or probability in [0, 1]."""

NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]
"""Lower and upper bound above 0, in this order."""

_Factor = Annotated[float, Field(ge=0.01, le=100)]
ScaleRange = Annotated[tuple[_Factor, _Factor], AfterValidator(_ordered)]
"""Lower and upper bound of a factor of size, in this order; beyond, crops are of no pixels or fill memory."""

ShareRange = Annotated[tuple[Share, Share], AfterValidator(_ordered)]
"""Lower and upper bound in [0, 1], in this order."""

Hue = Annotated[float, Field(ge=0, le=0.5)]
"""A share of the color circle, in either direction."""

Degrees = Annotated[float, Field(ge=0, le=180)]
"""An angle in degrees, in either direction."""

Color = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
"""`"#rrggbb"`."""

__all__ = [
    "Annotated",
    "Color",
    "Count",
    "Degrees",
    "Field",
    "Literal",
    "NonNegative",
    "Positive",
    "PositiveInt",
    "Share",
    "ShareRange",
]

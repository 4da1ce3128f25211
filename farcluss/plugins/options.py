"""Types for the options of plugins: constrained numbers and small tuples that a recipe can contain.

This module imports neither torch nor any plugin, so that options can be read and checked before either is loaded.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("the lower bound comes first")
    return bounds


Share = Annotated[float, Field(ge=0, le=1)]
"""A share or probability in [0, 1]."""

NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]
"""Lower and upper bound above 0, in this order."""

ShareRange = Annotated[tuple[Share, Share], AfterValidator(_ordered)]
"""Lower and upper bound in [0, 1], in this order."""

Hue = Annotated[float, Field(ge=0, le=0.5)]
"""A share of the color circle, in either direction."""

Color = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
"""`"#rrggbb"`."""

__all__ = [
    "Annotated",
    "Color",
    "Count",
    "Field",
    "Literal",
    "NonNegative",
    "Positive",
    "PositiveInt",
    "Share",
    "ShareRange",
]

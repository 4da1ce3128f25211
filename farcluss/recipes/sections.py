"""What the tables of a recipe have in common."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from farcluss.plugins.options import no_bool_for_a_number


class Section(BaseModel):
    """Base of every table of a recipe: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    _numbers = field_validator("*", mode="before")(no_bool_for_a_number)


class Part(Section):
    """A plugin by name with its options; `"name"` alone is short for `{ name = "name" }`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(description="plugin name, see `farcluss plugins list`")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name: the plugin's own options."""
        return dict(self.model_extra or {})

"""Frozen values that are written and read as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class Value(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, ser_json_inf_nan="constants"
    )

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, only those that were given."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


def first_error(error: ValidationError) -> str:
    """The first of a value's errors in one line, with its key."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{key}: {message[:1].lower()}{message[1:]}" if key else message

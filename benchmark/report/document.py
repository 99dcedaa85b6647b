"""What all published JSON documents share: their text and their JSON schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AliasPath, BaseModel, BeforeValidator, ConfigDict, Field

from benchmark.core import canonical_json


class Document(BaseModel):
    """A part of a document. Its fields are read from the attributes of the object that it describes."""

    model_config = ConfigDict(
        frozen=True,
        from_attributes=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        json_schema_serialization_defaults_required=True,
    )


Overrides = Annotated[dict[str, Any], Field(exclude_if=lambda values: not values)]
"""The values that `--set` set, by key. A document without any lacks the key."""


def at(*path: str) -> Any:
    """A field that is read from another attribute or key, or from inside it. All must exist."""
    return Field(validation_alias=AliasPath(*path))


def inside(*path: str, default: Any = None) -> BeforeValidator:
    """Reads the value of a field inside the given object, or returns a default for None.

    A name that an object lacks is an error. A mapping may lack a key.
    """

    def read(value: Any) -> Any:
        for name in path:
            if value is None:
                return default
            value = value.get(name) if isinstance(value, Mapping) else getattr(value, name)
        return value

    return BeforeValidator(read)


def text(document: Document) -> str:
    """The text of the published file."""
    return canonical_json.pretty(document.model_dump(mode="json", by_alias=True))


def schema(kind: type[BaseModel]) -> str:
    """The JSON schema of a document, as stored in docs/."""
    return canonical_json.pretty(kind.model_json_schema(mode="serialization"))

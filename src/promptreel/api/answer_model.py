"""Answers as types: what is sent and what /openapi.json says of it are one class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

Schema = dict[str, Any]

Count = Annotated[int, Field(ge=0)]
Number = Annotated[int | float, WithJsonSchema({"type": "number"})]
"""Sent as it is: 7 does not become 7.0."""

Seconds = Annotated[int | float, WithJsonSchema({"type": "number", "minimum": 0})]


class Answer(BaseModel):
    """A field that is not set is left out of the answer; one that is None is sent as null."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_unset=True)


def one_of(values: Iterable[str]) -> Any:
    """Of a text: its values, for the document. They are not checked: an old job may hold one that there is no more."""
    return Field(json_schema_extra={"enum": list(values)})


class _Plain(GenerateJsonSchema):
    """Without titles, which only say the name again, and without defaults: what is not set is not sent."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - Pydantic's
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def schemas_of(answers: Iterable[type[Answer]]) -> dict[str, Schema]:
    """JSON Schemas by name, of these and of all that they are made of."""
    models: Any = [(answer, "serialization") for answer in answers]
    _, schemas = models_json_schema(models, ref_template=ref("{model}")["$ref"], schema_generator=_Plain)
    return dict(schemas["$defs"])


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def either(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}

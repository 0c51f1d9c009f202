"""Answers as classes: one class is both what is sent and what /openapi.json describes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

Schema = dict[str, Any]

Count = Annotated[int, Field(ge=0)]
Number = Annotated[int | float, WithJsonSchema({"type": "number"})]
"""Keeps its type: 7 is not sent as 7.0."""

Seconds = Annotated[int | float, WithJsonSchema({"type": "number", "minimum": 0})]


class Answer(BaseModel):
    """Leaves out fields that are not set; sends None as null."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_unset=True)


def one_of(values: Iterable[str]) -> Any:
    """Lists a text's values in the document. They are not checked: an old job may hold a value that was removed since."""
    return Field(json_schema_extra={"enum": list(values)})


class _Plain(GenerateJsonSchema):
    """Schemas without titles, which only repeat the name, and without defaults: fields that are not set are not sent."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - Pydantic's signature
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def schemas_of(answers: Iterable[type[Answer]]) -> dict[str, Schema]:
    """JSON Schemas by name: of these answers and of all types in them."""
    models: Any = [(answer, "serialization") for answer in answers]
    _, schemas = models_json_schema(models, ref_template=ref("{model}")["$ref"], schema_generator=_Plain)
    return dict(schemas["$defs"])


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def either(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}

"""One class is both an answer and its description."""

from __future__ import annotations

import pytest
from pydantic import Field, ValidationError
from pydantic.json_schema import SkipJsonSchema

from promptreel.api.answer_model import Answer, Number, schemas_of


class Part(Answer):
    amount: Number


class Whole(Answer):
    name: str | None
    part: Part
    tip: str | SkipJsonSchema[None] = Field(default=None, description="Of some.")


def test_unset_field_is_left_out_and_none_is_null() -> None:
    assert Whole(name=None, part=Part(amount=7)).to_json() == {"name": None, "part": {"amount": 7}}
    assert Whole(name="a", part=Part(amount=7), tip="b").to_json()["tip"] == "b"


@pytest.mark.parametrize("amount", [7, 7.0, 0.00001])
def test_number_keeps_its_type(amount: float) -> None:
    assert repr(Part(amount=amount).to_json()["amount"]) == repr(amount)


def test_schema_requires_fields_without_default_and_allows_no_others() -> None:
    schemas = schemas_of([Whole])

    assert set(schemas) == {"Whole", "Part"}
    assert schemas["Whole"]["required"] == ["name", "part"]
    assert schemas["Whole"]["properties"]["tip"] == {"type": "string", "description": "Of some."}
    assert schemas["Whole"]["properties"]["part"] == {"$ref": "#/components/schemas/Part"}
    assert schemas["Whole"]["additionalProperties"] is False
    with pytest.raises(ValidationError):
        Part(amount=1, more=2)  # type: ignore[call-arg]

"""The OpenAPI document describes the answers of every endpoint. `make fuzz` compares real answers with it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi import APIRouter

from promptreel.api.field_reader import Limits
from promptreel.api.openapi_document import describe_answers


def references(value: object) -> set[str]:
    """The names of all components that a part of the document refers to."""
    if isinstance(value, dict):
        found = {value["$ref"].removeprefix("#/components/schemas/")} if "$ref" in value else set()
        return found.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def test_every_operation_says_what_it_answers(document: dict[str, Any]) -> None:
    answers = [operation["responses"] for path in document["paths"].values() for operation in path.values()]

    assert len(answers) > 60
    assert all({"200", "default"} <= set(each) for each in answers)
    assert all(answer["content"] for each in answers for answer in each.values())


def test_every_component_is_there_and_used(document: dict[str, Any]) -> None:
    assert references(document) == set(document["components"]["schemas"])


def test_undescribed_endpoint_is_noticed() -> None:
    router = APIRouter()
    router.add_api_route("/new", lambda: None)

    with pytest.raises(KeyError):
        describe_answers(router)


@pytest.mark.parametrize(
    ("limits", "fitting", "unfitting"),
    [
        (Limits(64, 1024), ["100", "999"], ["64", "1024", "0", "1025"]),
        (Limits(1, 50), ["1", "9"], ["0", "51"]),
        (Limits(0, 1), ["0", "1"], ["2"]),
        (Limits(0, 2**32 - 1), ["1", "999999999"], ["4294967296"]),
        (Limits(1, 25, clamps=True), ["1", "999"], ["", "a"]),
    ],
)
def test_pattern_of_a_number_matches_none_beyond_its_limits(limits: Limits, fitting: list[str], unfitting: list[str]) -> None:
    assert all(re.search(limits.pattern, text) for text in fitting)
    assert not any(re.search(limits.pattern, text) for text in unfitting)

"""docs/errors.md has every code, with the status that is answered."""

from __future__ import annotations

import re

from promptreel.api.app import create_app  # noqa: F401 - defines the api's own errors
from promptreel.api.problems import STATUSES
from promptreel.errors import JobFailed, PromptreelError
from tests.rules.documents import read


def family(kind: type[PromptreelError]) -> set[type[PromptreelError]]:
    return {kind}.union(*map(family, kind.__subclasses__()))


def status_by_code() -> dict[str, int]:
    """Of all errors that the api knows by themselves, and not by their family."""
    return {kind.code: status for kind, status in STATUSES.items() if not issubclass(kind, JobFailed)}


def test_every_code_has_a_line() -> None:
    listed = re.findall(r"^\| `([a-z_]+)` \|", read("docs/errors.md"), re.MULTILINE)

    assert sorted(listed) == sorted({kind.code for kind in family(PromptreelError)})


def test_statuses_are_those_that_are_answered() -> None:
    listed = dict(re.findall(r"^\| `([a-z_]+)` \| (\d{3}) \|", read("docs/errors.md"), re.MULTILINE))

    known = status_by_code()
    assert len(listed) > 10
    assert {code: int(status) for code, status in listed.items()} == {code: known.get(code, 500) for code in listed}

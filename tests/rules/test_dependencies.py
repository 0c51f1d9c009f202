"""Every package that is installed has its reason in docs/dependencies.md."""

from __future__ import annotations

import re
import tomllib

from tests.rules.documents import read, section, table_rows


def names(requirements: list[str]) -> list[str]:
    return [re.split(r"[\[<>=!~ ;]", requirement)[0] for requirement in requirements]


def reasons(heading: str) -> dict[str, str]:
    rows = table_rows(section(read("docs/dependencies.md"), heading))
    return {name.strip("`"): reason for name, reason in rows}


def test_every_dependency_has_a_reason() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    extras = project["optional-dependencies"]

    found = {
        "## To run": names(project["dependencies"]),
        "## To develop": names(extras.pop("dev")),
        "## Extras": names([*extras.pop("heif"), *extras.pop("site")]),
        "## For later": [name for extra in extras.values() for name in names(extra)],
    }

    for heading, expected in found.items():
        assert sorted(reasons(heading)) == sorted(expected), heading
        assert all(reasons(heading).values()), heading


def test_every_dependency_has_an_exact_version() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    pinned = {line.split("==")[0].lower() for line in read("constraints.txt").splitlines() if "==" in line}

    assert set(names([*project["dependencies"], *project["optional-dependencies"]["dev"]])) <= pinned

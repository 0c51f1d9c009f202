"""Every package that is installed has its reason in docs/dependencies.md."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from typing import Any

from packaging.requirements import Requirement

from tests.rules.documents import read, section, table_rows


def names(requirements: list[str]) -> list[str]:
    return [re.split(r"[\[<>=!~ ;]", requirement)[0] for requirement in requirements]


def reasons(heading: str) -> dict[str, str]:
    rows = table_rows(section(read("docs/dependencies.md"), heading))
    return {name.strip("`"): reason for name, reason in rows}


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(read("pyproject.toml"))["project"]
    return found


def test_every_dependency_has_a_reason() -> None:
    base, extras = names(project()["dependencies"]), project()["optional-dependencies"]
    developing = names(extras.pop("dev"))
    assert "promptreel" in developing
    media = names(extras.pop("media"))

    found = {
        "## To run": base,
        "## To read and write pictures and videos": media,
        "## To make videos": [name for name in names(extras.pop("worker")) if name not in {*base, *media, "promptreel"}],
        "## To develop": [name for name in developing if name != "promptreel"],
        "## Extras": [
            name for name in names([*extras.pop("heif"), *extras.pop("hub"), *extras.pop("site")]) if name != "promptreel"
        ],
    }

    assert extras == {}  # an extra that no code uses has no place here
    for heading, expected in found.items():
        assert sorted(reasons(heading)) == sorted(expected), heading
        assert all(reasons(heading).values()), heading


def test_every_dependency_has_an_exact_version_that_fits() -> None:
    pinned = {line.split("==")[0].lower(): line.split("==")[1] for line in read("constraints.txt").splitlines() if "==" in line}
    extras = project()["optional-dependencies"].values()
    required = [Requirement(each) for each in chain(project()["dependencies"], *extras) if not each.startswith("promptreel[")]

    assert [str(each) for each in required if not each.specifier.contains(pinned.get(each.name.lower(), "0"))] == []


def test_what_computes_has_one_version() -> None:
    worker = {each.name: str(each.specifier) for each in map(Requirement, project()["optional-dependencies"]["worker"])}

    assert {name for name, version in worker.items() if not version.startswith("==")} == {"promptreel"}  # the extra media
    assert {"torch", "diffusers", "transformers", "numpy", "scipy"} <= set(worker)

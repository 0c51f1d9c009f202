"""The Dockerfile and compose.yaml say what the project has: paths, commands, settings, and a careful user."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from promptreel.cli import app
from promptreel.settings import PREFIX, Settings
from tests.rules.documents import ROOT, code_blocks, read

DOCKERFILE = "deploy/Dockerfile"
TARGETS = {"api", "cpu", "cuda"}


@cache
def instructions() -> dict[str, list[tuple[str, str]]]:
    """By the name of a stage, its own instructions after those of the stage that it is made from."""
    stages: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    lines = "\n".join(line for line in read(DOCKERFILE).splitlines() if not line.startswith("#"))
    for line in lines.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            source, _, name = rest.split()
            current = stages[name] = [*stages.get(source, [("FROM", source)])]
        elif word:
            current.append((word, rest.strip()))
    return stages


def values(stage: str, word: str) -> list[str]:
    return [rest for found, rest in instructions()[stage] if found == word]


def environment(stage: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for line in values(stage, "ENV") for pair in line.split())


def check_command(arguments: list[str]) -> None:
    """Is a command of `promptreel`, with options that it has."""
    command: Any = get_command(app)
    context = command.make_context("promptreel", list(arguments), resilient_parsing=True)
    rest = [*arguments]
    while hasattr(command, "commands"):
        assert rest[0] in command.commands, arguments
        command = command.commands[rest.pop(0)]
    command.make_context(command.name, rest, parent=context)


def check_settings(names: set[str]) -> None:
    assert names <= {PREFIX + name.upper() for name in Settings.model_fields}


def test_there_are_three_images_from_one_pinned_base() -> None:
    assert set(instructions()) >= TARGETS
    (base,) = {values(stage, "FROM")[0] for stage in instructions()}
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base)
    assert "latest" not in read(DOCKERFILE)


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_image_runs_the_service_as_a_user_of_its_own(target: str) -> None:
    assert values(target, "USER")[-1] == "10001:10001"
    assert values(target, "VOLUME") == ["/data"]
    assert environment(target)["PROMPTREEL_DATA_DIR"] == "/data"
    assert values(target, "STOPSIGNAL") == ["SIGTERM"]
    assert values(target, "EXPOSE") == [environment(target)["PROMPTREEL_PORT"]]
    assert json.loads(values(target, "ENTRYPOINT")[-1]) == ["promptreel"]
    check_command(json.loads(values(target, "CMD")[-1]))
    given = {name: value for name, value in environment(target).items() if name.startswith(PREFIX)}
    check_settings(set(given))
    Settings(**{name.removeprefix(PREFIX).lower(): value for name, value in given.items()})


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_image_asks_the_api_for_its_health(target: str) -> None:
    (check,) = values(target, "HEALTHCHECK")
    program = json.loads(check[check.index("CMD ") + 4 :])
    assert program[:2] == ["python", "-c"]
    assert "/health" in program[2]
    refused = subprocess.run(
        [sys.executable, *program[1:]], env={"PROMPTREEL_PORT": "1"}, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert "Connection refused" in refused.stderr


def test_what_is_copied_is_there_and_not_ignored() -> None:
    patterns = [line for line in read(".dockerignore").splitlines() if line and not line.startswith("#")]
    copied = {name for stage in instructions() for line in values(stage, "COPY") for name in line.split()[:-1]}
    files = {name for name in copied if not name.startswith(("--from", "/opt"))}
    assert files >= {"src", "pyproject.toml", "constraints.txt", "NOTICE"}
    for name in files:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in patterns, name
    assert patterns[0] == "*"
    assert not any(fnmatch(".venv", pattern[1:]) for pattern in patterns if pattern[0] == "!")
    for stage in instructions():
        for line in values(stage, "COPY"):
            assert not line.startswith("--from=") or line.split()[0].removeprefix("--from=") in instructions()


def test_labels_say_what_pyproject_says() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    (labels,) = {line for target in TARGETS for line in values(target, "LABEL")}
    told = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', labels))
    assert (told["version"], told["licenses"]) == (project["version"], project["license"])
    citation = yaml.safe_load(read("CITATION.cff"))
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint has no wheel for this machine")
    ran = subprocess.run([hadolint, ROOT / DOCKERFILE], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")


def services() -> dict[str, dict[str, Any]]:
    return yaml.safe_load(read("compose.yaml"))["services"]


@pytest.mark.parametrize("name", services())
def test_service_of_compose_is_an_image_of_ours_with_settings_that_there_are(name: str) -> None:
    service = services()[name]
    assert ROOT / service["build"]["dockerfile"] == ROOT / DOCKERFILE
    assert service["image"] == f"promptreel:{service['build']['target']}"
    assert service["build"]["target"] in TARGETS
    assert service["read_only"]
    assert service["init"]
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert "user" not in service  # the image's
    check_settings(set(service.get("environment", {})))
    for setting, value in service.get("environment", {}).items():
        assert re.fullmatch(rf"\$\{{{setting}:-(\w*)\}}", value)
    for line in service.get("entrypoint", [])[2:]:
        for words in re.findall(r"promptreel (keys \w+)", line):
            check_command([*words.split(), *(["a name"] if "create" in words else [])])
    if "command" in service:
        check_command(service["command"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@pytest.mark.slow
def test_first_key_is_made_once(tmp_path: Path) -> None:
    """By the very line of compose.yaml."""
    shell, option, line = services()["first-key"]["entrypoint"]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    command = {"args": [shell, option, line], "env": {"PATH": path, "PROMPTREEL_DATA_DIR": str(tmp_path / "data")}}
    first, again = (subprocess.run(**command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert re.search(r"^key\s+pr_", first, re.MULTILINE)
    assert again == ""


def test_page_runs_what_the_files_have() -> None:
    commands = "\n".join(code_blocks(read("docs/docker.md"), "sh"))
    assert set(re.findall(r"--target (\w+)", commands)) <= TARGETS
    assert set(re.findall(r"promptreel:(\w+) ?", commands)) <= TARGETS
    for words in re.findall(r"exec promptreel promptreel (\w+ \w+)", commands):
        check_command([*words.split(), *(["a name"] if "create" in words else [])])
    assert set(re.findall(r"(PROMPTREEL_\w+)", read("docs/docker.md"))) <= {
        PREFIX + name.upper() for name in Settings.model_fields
    }

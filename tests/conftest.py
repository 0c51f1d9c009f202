"""For all tests: the settings of the shell that runs them stay outside, and numerical libraries take one thread."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from promptreel.encoding.decoder import Decoder

THREADS = "1"

FLOWS = PurePosixPath("tests/flows")
RULES = PurePosixPath("tests/rules")
PAGE = PurePosixPath("tests/page")
OF_THE_CALLING_SERVICE = {FLOWS / f"test_{name}.py" for name in ("crashes", "imports", "wall_clock", "webhooks")}
WITHOUT_SERVICE = {FLOWS / "test_demo.py"}
HEADERS = {PurePosixPath(f"tests/models/test_{name}.py") for name in ("full_size", "made_up_files")}
COMMANDS = {FLOWS / "test_generate.py", PurePosixPath("tests/test_cli.py"), PurePosixPath("tests/commands/test_doctor.py")}


class TestsOfAServiceTogether(LoadScopeScheduling):
    """Any process takes the next test; but one takes all of those that share a service, which is started once then.

    So it is with commands, which run in forks of a process that takes seconds to import all that they need; with headers of
    public models, for which no other test that `make test-quick` runs imports torch; and with the tests of each file in
    tests/rules, which look at one wheel or one site.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = PurePosixPath(nodeid.partition("::")[0])
        if file in OF_THE_CALLING_SERVICE:
            return "calling service"
        if file in COMMANDS:
            return "commands"
        if file in HEADERS:
            return "headers"
        if file.parent == RULES:
            return str(file)
        if file.parent == PAGE:
            return "page"
        return "service" if file.parent == FLOWS and file not in WITHOUT_SERVICE else nodeid


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """The garbage collector searches what is imported neither now, which would take a fifth of the time, nor later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(
            PurePosixPath(item.nodeid).is_relative_to(folder) for folder in (FLOWS, PAGE)
        ):  # their services take seconds to start
            item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Names tests that took over a second and are not marked. None fails of it: the machine may be busy."""
    reports = [report for name in ("passed", "failed") for report in terminalreporter.stats.get(name, [])]
    unmarked = [each for each in reports if each.when == "call" and each.duration > 1 and "slow" not in each.keywords]
    if unmarked:
        terminalreporter.section("took over a second: mark those `slow` that do so on an idle machine")
        for each in sorted(unmarked, key=lambda report: -report.duration)[:20]:
            terminalreporter.line(f"{each.duration:.1f} s  {each.nodeid}")


@pytest.fixture(scope="session", autouse=True)
def ordinary_process() -> Iterator[None]:
    """SVT-AV1 gives root's real-time priority to a process, and so to all that later tests start: nothing else would run."""
    before = os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None
    yield
    assert before is None or os.sched_getscheduler(0) == before, "a test encodes AV1 without encoding.yuv: ordinary_priority"


@pytest.fixture(scope="session")
def decoder() -> Decoder:
    """Its process takes half a second to start."""
    from promptreel.encoding.decoder import Decoder  # noqa: PLC0415 - numpy too reads the variables below when it is imported

    return Decoder()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> TestsOfAServiceTogether:
    return TestsOfAServiceTogether(config, log)


def pytest_configure(config: pytest.Config) -> None:
    for name in [name for name in os.environ if name.startswith("PROMPTREEL_")]:
        del os.environ[name]
    # A machine that stalls for a moment is no failure; whatever else the profile for CI says stays as it is.
    settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("patient")
    # What a shell starts in the background ignores Ctrl-C, and so would every program that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Read when torch is imported, here and in the processes that tests start.
    os.environ["OMP_NUM_THREADS"] = THREADS
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["HF_HUB_OFFLINE"] = "1"
    # diffusers hands tensors to numpy in a way that numpy 2 will give up; thousands of lines, and no mistake of ours.
    config.addinivalue_line("filterwarnings", "ignore:__array:DeprecationWarning")
    # modelslab-py, which is tested as it is, was written for pydantic 1.
    for beginning in ("Support for class-based `config`", "`json_encoders` is deprecated", "The `dict` method is deprecated"):
        config.addinivalue_line("filterwarnings", f"ignore:{beginning}:DeprecationWarning")

"""Hostile input costs a real service a bounded amount of memory and time, and does not block other clients.

`make hostile` runs the cases of all files in this folder, in about two minutes. A wrong answer fails at once. A case that
exceeds a bound is tried again, since a busy machine may exceed one too, but not each time.
"""

from __future__ import annotations

import pkgutil
import time
from base64 import b64encode
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import httpx
import pytest

import tests.hostile
from tests.encoding.files import encode_image, encode_video, make_bars, make_greys
from tests.flows.service import SHORT, Service
from tests.hostile.case import HostileCase
from tests.hostile.measure import Watch
from tests.waiting import LONGEST_SECONDS

pytestmark = pytest.mark.hostile

BOUNDS = {"most_mb": 300.0, "most_log_kb": 300.0, "most_seconds": 10.0, "most_health_seconds": 1.0}
TRIES = 3


def modules() -> list[ModuleType]:
    names = sorted(module.name for module in pkgutil.iter_modules(tests.hostile.__path__))
    quiet = [name for name in names if not name.startswith("test_") and name != "conftest"]
    return [import_module(f"tests.hostile.{name}") for name in quiet]


def cases() -> list[object]:
    return [
        pytest.param(case, id=f"{module.__name__.rpartition('.')[2]}-{case.name}")
        for module in modules()
        for case in getattr(module, "CASES", [])
    ]


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with user-settable options only. Modules whose cases need settings list them as `SETTINGS`."""
    settings = {name: value for module in modules() for name, value in getattr(module, "SETTINGS", {}).items()}
    service = Service(tmp_path_factory.mktemp("hostile"), **settings)
    service.client.timeout = httpx.Timeout(
        LONGEST_SECONDS
    )  # generous: the bounds are measured, and a busy machine may take longer
    service.start()
    yield service
    service.stop()


@pytest.fixture(scope="session")
def watch(service: Service) -> Iterator[Watch]:
    with Watch(service) as watch:
        yield watch


@pytest.fixture(scope="session")
def rest_seconds(service: Service) -> float:
    """Seconds that an ordinary request takes on a warm service."""
    for _ in range(2):
        began = time.monotonic()
        make_ordinary_videos(service)
    return time.monotonic() - began


def make_ordinary_videos(service: Service) -> None:
    picture, video = b64encode(encode_image(make_bars())).decode(), b64encode(encode_video(make_greys(4))).decode()
    service.make(**SHORT, init_image=f"data:image/png;base64,{picture}")
    service.make(**SHORT, init_video=f"data:video/mp4;base64,{video}")
    service.make(**SHORT | {"num_frames": 40})  # a full window: the model's own memory is not an attack's cost


@pytest.mark.parametrize("case", cases())
def test_hostile_input_is_answered_within_bounds(
    service: Service, watch: Watch, rest_seconds: float, case: HostileCase
) -> None:
    broken: list[str] = []
    for _ in range(TRIES):
        costs = watch.measure(case.attack, rest_seconds=rest_seconds)
        print(costs)  # noqa: T201
        broken = costs.beyond(**BOUNDS)
        if not broken:
            return
    pytest.fail(f"{case.name}: {', '.join(broken)}")


def test_ordinary_requests_are_served_after_all_of_them(service: Service, watch: Watch, rest_seconds: float) -> None:
    costs = watch.measure(make_ordinary_videos, rest_seconds=rest_seconds)

    assert not costs.beyond(**BOUNDS)

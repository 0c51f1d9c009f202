"""What is installed without extras: the command line, the client, the api and the courier.

These tests see this environment's packages without those of the extras. `make install-test` installs the wheel for real.
"""

from __future__ import annotations

import os
import pkgutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import httpx
import psutil
import pytest

import promptreel
from promptreel.demo import READY, REQUEST
from promptreel.extras import MODULES
from tests.rules.documents import ROOT
from tests.waiting import wait_for

COMMAND = "pip install 'promptreel[worker]'"
EXTRAS = (*MODULES["worker"], "av.libs", "numpy.libs", "pillow.libs", "pillow_heif", "pillow_heif.libs")
WITH_MEDIA = {"generation", "worker", "encoding", "training"}
"""The folders that need an extra; of encoding and training, these modules need none."""
WITHOUT_MEDIA = [
    *(f"promptreel.encoding.{name}" for name in ("decoder", "inits", "heif")),
    *(f"promptreel.training.{name}" for name in ("examples", "plan", "presets")),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment variables of a Python that has the base alone."""
    folder = tmp_path_factory.mktemp("site-packages")
    for each in Path(sysconfig.get_path("purelib")).iterdir():
        if each.name.partition("-")[0] not in EXTRAS and each.suffix != ".pth":
            (folder / each.name).symlink_to(each)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT / "src")]), "HOME": str(folder.parent)}


def run(base: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", *map(str, arguments)]
    return subprocess.run(command, env=base, capture_output=True, text=True, check=False, timeout=240)


def test_everything_but_what_makes_and_reads_videos_is_imported(base: dict[str, str]) -> None:
    modules = [each.name for each in pkgutil.walk_packages(promptreel.__path__, "promptreel.")]
    of_base = [name for name in modules if name.split(".")[1] not in WITH_MEDIA and not name.endswith(".env")]
    of_base += WITHOUT_MEDIA
    assert "promptreel.api.v1.routes" in of_base

    ran = run(base, "-c", f"import importlib\nfor name in {of_base}: importlib.import_module(name)")

    assert ran.stderr == ""


MAKING = {
    "cli serve": " A service without its own workers needs none of this: promptreel serve --workers 0.",
    "cli worker": "",
    "cli generate cat": " Or have a server make the video: --server URL.",
    "demo": "",
}
"""What makes videos, and what can be done instead."""
RUN_EACH_IN_A_FORK = """
import os, sys
from promptreel import cli, demo

for line in sys.argv[1:]:
    print(line, flush=True)
    if os.fork() == 0:
        os.dup2(1, 2)
        module, *sys.argv[1:] = line.split()
        sys.exit({"cli": cli, "demo": demo}[module].main())
    print("exit code", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


def test_what_makes_videos_says_what_to_install(base: dict[str, str], tmp_path: Path) -> None:
    ran = run(base | {"PROMPTREEL_DATA_DIR": str(tmp_path / "data")}, "-c", RUN_EACH_IN_A_FORK, *MAKING)

    missing = ", ".join(MODULES["worker"])
    told = f"Videos cannot be made here, because {missing} are not installed: {COMMAND}."
    lines = iter(ran.stdout.splitlines())
    for command, instead in MAKING.items():
        assert (next(lines), next(lines).partition(": ")[2]) == (command, told + instead)
        assert next(lines) in {"exit code 1", "exit code 2"}
    assert list(lines) == []
    assert not (tmp_path / "data").exists()


def test_picture_is_refused_with_what_reads_it(base: dict[str, str]) -> None:
    """An accepted job must be able to run: no picture is accepted unread."""
    ran = run(
        base,
        "-c",
        "from promptreel.encoding.decoder import Decoder\nfrom promptreel.media import Init\n"
        "Decoder().check(Init('image', 'png', b''))",
    )

    assert ran.stderr.splitlines()[-1] == (
        "promptreel.errors.InitUnusable: This server cannot read pictures and videos. "
        "Its operator can add support with: pip install 'promptreel[media]'"
    )


def test_models_are_listed_unchecked(base: dict[str, str], tmp_path: Path) -> None:
    ran = run(base | {"PROMPTREEL_DATA_DIR": str(tmp_path)}, "-m", "promptreel.cli", "models", "list")

    assert (ran.returncode, "cutout" in ran.stdout) == (0, True)
    assert "files are not checked here. To check them: pip install 'promptreel[media]'" in ran.stderr


def test_doctor_finds_nothing_wrong_and_says_what_brings_torch(base: dict[str, str]) -> None:
    ran = run(base | {"PROMPTREEL_PORT": "0"}, "-m", "promptreel.cli", "doctor")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert f"torch       -      not installed: videos can only be made by a server\n{' ' * 19}{COMMAND}\n" in ran.stdout


@pytest.mark.slow
def test_service_without_workers_is_ready_and_takes_jobs_for_those_elsewhere(base: dict[str, str], tmp_path: Path) -> None:
    settings = {"PROMPTREEL_DATA_DIR": str(tmp_path), "PROMPTREEL_PORT": "0", "PROMPTREEL_WORKERS": "0"}
    command = [sys.executable, "-S", "-m", "promptreel.cli", "serve"]
    log = tmp_path / "log"
    with log.open("wb") as output:
        service = subprocess.Popen(command, env=base | settings, stdout=output, stderr=subprocess.STDOUT)
    try:
        url = wait_for(lambda: READY.search(log.read_text()))[1]
        names = [" ".join(child.cmdline()) for child in psutil.Process(service.pid).children()]
        with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
            assert client.get("/health").json()["workers"] == 0
            assert client.get("/health/ready").status_code == 503
            assert client.post("/api/v4/dreambooth/text2video", json=REQUEST).json()["status"] == "processing"
    finally:
        service.send_signal(signal.SIGTERM)
        code = service.wait(60)
    assert code == 0
    assert "it starts no workers, because PROMPTREEL_WORKERS is 0" in log.read_text()
    assert len(names) == 2
    assert not any(" worker" in name for name in names)

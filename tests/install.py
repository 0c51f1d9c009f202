"""`make install-test`: installs the wheel where nothing is, without torch, and uses it as people would.

On Python 3.11 and on the newest other one of this machine: the base alone, `promptreel --version`, `doctor`, an api without
workers, a video from a service that runs elsewhere, and the tests that need no torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request

from promptreel.demo import open_url, running_service
from promptreel.extras import MODULES
from tests.rules.documents import ROOT
from tests.wheel import build_wheel

FIRST, OLDEST, NEWEST = (3, 11), (3, 11), (3, 14)
WHAT_IT_IS = "import ensurepip, sys; v = sys.version_info; print(v.major, v.minor, v.micro, v.releaselevel == 'final')"

TOOLS = ("hypothesis", "httpx", "psutil", "pytest", "pytest-xdist", "standardwebhooks")
"""Of the extra `dev`, what these tests need."""

TESTS = (
    "tests/encoding",
    "tests/fetching",
    "tests/jobs",
    "tests/notify",
    "tests/storage",
    "tests/test_base_install.py",
    "tests/test_client.py",
    "tests/test_logs.py",
    "tests/test_settings.py",
    "tests/test_supervisor.py",
)
NEED_AN_EXTRA = ("tests/encoding/test_real_pictures.py",)
"""Of these folders, what reads HEIC."""

JSON = {"Content-Type": "application/json"}
PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"

QUICK = "not slow and not fuzz and not hostile"
"""`make test` runs the slow ones: what they find has to do with the environment but seldom."""

Version = tuple[int, int, int]


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel in it."""

    folder: Path

    def run(self, *command: object, cwd: Path | None = None, **settings: str) -> str:
        """What it prints. Ends everything if it fails."""
        words = [str(self.folder / "bin" / str(command[0])), *map(str, command[1:])]
        ran = subprocess.run(
            words, env=_clean_environment() | settings, cwd=cwd or self.folder, text=True, check=False, stdout=subprocess.PIPE
        )
        if ran.returncode:
            sys.exit(f"{ran.stdout}\n{' '.join(words)} ended with {ran.returncode}")
        return ran.stdout

    def megabytes(self) -> float:
        """Of the packages, without pip."""
        (packages,) = self.folder.glob("lib/python*/site-packages")
        folders = [each for each in packages.iterdir() if not each.name.startswith("pip")]
        files = [path for folder in folders for path in (folder.rglob("*") if folder.is_dir() else [folder])]
        return sum(path.stat().st_size for path in files if path.is_file()) / 1e6


def main() -> None:
    pythons = choose(find_pythons())
    with tempfile.TemporaryDirectory(prefix="promptreel-install-") as name:
        folder = Path(name)
        wheel = build_wheel(folder)
        say(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
        with running_service(folder / "data", folder / "service.log") as url:
            for version, python in pythons.items():
                with timed(f"Python {spell(version)}"):
                    try_on(python, wheel, url, folder / spell(version))


def find_pythons() -> dict[Version, Path]:
    """By version, what is on the path, and what pyenv has."""
    names = [f"python3.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1)]
    folders = [Path(folder) for folder in os.get_exec_path()] + sorted(Path.home().glob(".pyenv/versions/*/bin"))
    found: dict[Version, Path] = {}
    for path in (folder / name for name in names for folder in folders if (folder / name).exists()):
        ran = subprocess.run([path, "-c", WHAT_IT_IS], capture_output=True, text=True, check=False)
        if ran.returncode == 0:
            major, minor, micro, is_final = ran.stdout.split()
            if is_final == "True":
                found.setdefault((int(major), int(minor), int(micro)), path)
    return found


def choose(found: dict[Version, Path]) -> dict[Version, Path]:
    """The newest 3.11 and the newest other one."""
    first = max((version for version in found if version[:2] == FIRST), default=None)
    other = max((version for version in found if version[:2] != FIRST), default=None)
    if first is None:
        say("There is no Python 3.11 with venv here: it goes on without.")
    if other is None:
        say("There is no other Python up to 3.14 with venv here: it goes on without.")
    if first is None and other is None:
        sys.exit("There is nothing to try it on: install Python 3.11.")
    return {version: found[version] for version in (first, other) if version is not None}


def try_on(python: Path, wheel: Path, url: str, folder: Path) -> None:
    constraints = ROOT / "constraints.txt"
    with timed("  installed"):
        subprocess.run([python, "-m", "venv", folder], check=True, env=_clean_environment())
        installed = Installed(folder)
        installed.run("python", "-m", "pip", "install", "--quiet", "--constraint", constraints, wheel)
    say(f"  the base takes {installed.megabytes():.0f} MB")
    missing = installed.run(
        "python", "-c", f"from importlib.util import find_spec; print([*map(find_spec, {MODULES['worker']})])"
    )
    assert missing.strip() == str([None] * len(MODULES["worker"])), missing
    assert str(folder) in installed.run("python", "-c", "import promptreel; print(promptreel.__file__)")
    say(f"  {installed.run('promptreel', '--version').strip()}")
    assert "torch       -      not installed" in installed.run("promptreel", "doctor", PROMPTREEL_PORT="0")
    say("  doctor finds nothing wrong")
    with timed("  a video arrived"):
        video = receive_video(installed, url)
    with timed("  an api without workers answers"):
        serve_alone(installed)
    installed.run("python", "-m", "pip", "install", "--quiet", "--constraint", constraints, f"{wheel}[media]", *TOOLS)
    say(f"  with the extra media it takes {installed.megabytes():.0f} MB, with what the tests need")
    check_video(installed, video)
    with timed("  the tests passed"):
        ignored = [f"--ignore={name}" for name in NEED_AN_EXTRA]
        installed.run("python", "-m", "pytest", "-q", "-m", QUICK, "-p", "no:cacheprovider", *ignored, *TESTS, cwd=ROOT)


def receive_video(installed: Installed, url: str) -> Path:
    video = installed.folder / "video.mp4"
    small = ["--frames", 4, "--steps", 2, "--width", 96, "--height", 96, "--seed", 7]
    installed.run("promptreel", "generate", "a red ball", "--server", url, "-o", video, *small)
    return video


def check_video(installed: Installed, video: Path) -> None:
    seen = installed.run(
        "python", "-c", "import pathlib, sys, promptreel.demo as demo; print(demo.decode(pathlib.Path(sys.argv[1])))", video
    )
    assert seen.startswith("Playable(frames=4, width=96, height=96,"), seen


def serve_alone(installed: Installed) -> None:
    """With the page that its wheel must have, and the tables that its migrations make."""
    settings = {"PROMPTREEL_PORT": "0", "PROMPTREEL_WORKERS": "0", "PROMPTREEL_DATA_DIR": str(installed.folder / "data")}
    command = [str(installed.folder / "bin" / "promptreel"), "serve"]
    log = (installed.folder / "service.log").open("wb")
    service = subprocess.Popen(command, env=_clean_environment() | settings, stdout=subprocess.PIPE, stderr=log, text=True)
    assert service.stdout is not None
    try:
        url = service.stdout.readline().split(" (")[0].removeprefix("Promptreel is ready on ")
        for path in ("/health", "/openapi.json", "/docs", "/v1/models"):
            with open_url(Request(f"{url}{path}")) as answer:
                assert answer.status == 200, path
        picture = {"prompt": "a cat", "init_image": PNG}
        with open_url(Request(f"{url}/api/v6/video/img2video", json.dumps(picture).encode(), JSON)) as answer:
            said = answer.read().decode()
        assert "pip install 'promptreel[media]'" in said, said
        check = {"key": "", "model_id": "cutout"}
        with open_url(Request(f"{url}/api/v1/enterprise/verify_model", json.dumps(check).encode(), JSON)) as answer:
            said = answer.read().decode()
        assert "pip install 'promptreel[media]'" in said, said
    finally:
        service.terminate()
        code = service.wait(60)
        log.close()
    assert code == 0, code


def spell(version: Version) -> str:
    return ".".join(map(str, version))


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


@contextmanager
def timed(what: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - started:.0f} s")


def _clean_environment() -> dict[str, str]:
    """Without the settings and the environment of who calls."""
    ours = ("PROMPTREEL_", "PYTHON", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


if __name__ == "__main__":
    main()

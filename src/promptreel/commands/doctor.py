"""`promptreel doctor`: checks what Promptreel needs from this machine, and says how to fix what is wrong.

Users paste its output into public issues, so it shows no secret and no user name. It shows the names of the settings that are
set, and the values of only two: the port and the data directory, whose path is anonymized.
"""

from __future__ import annotations

import http.client
import importlib.metadata
import json
import os
import platform
import re
import shutil
import socket
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from promptreel.commands.terminal import DataDir, printable
from promptreel.encoding import heif
from promptreel.errors import BadConfiguration
from promptreel.extras import install_command, is_installed, missing_modules
from promptreel.jobs.database import refuse_affected_sqlite, sqlite_version
from promptreel.settings import PREFIX, Settings, list_bad_settings, load_settings
from promptreel.version import installed_version

if TYPE_CHECKING:
    from promptreel.generation.devices import TorchBuild

State = Literal["ok", "-", "WRONG"]

COLUMNS = 80
NAME_WIDTH, STATE_WIDTH = 12, 7
NEWEST_TESTED = (3, 14)
LEAST_FREE_BYTES = 1_000_000_000
ANSWER_SECONDS = 2.0

_ENCODERS = {"h264": "libx264", "av1": "libsvtav1"}
_DECODERS = {"h264": "h264", "hevc": "hevc", "vp9": "vp9", "av1": "libdav1d"}
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Finding:
    """One line of output. The state "-" is worth knowing, but not wrong. `command` fixes a problem, or tells more about it."""

    name: str
    state: State
    text: str
    command: str | None = None


def doctor(data_dir: DataDir = None) -> None:
    """Check this machine, and say how to fix problems. The output is safe to post publicly. Exits with 1 if there are any."""
    findings = list(_look_at_everything(data_dir))
    for finding in findings:
        print(anonymous(layout(finding)))  # noqa: T201
    wrong = sum(finding.state == "WRONG" for finding in findings)
    print("\n" + _summarize(wrong))  # noqa: T201
    if wrong:
        raise typer.Exit(1)


def _summarize(wrong: int) -> str:
    match wrong:
        case 0:
            return "Nothing is wrong."
        case 1:
            return "1 thing is wrong."
        case _:
            return f"{wrong} things are wrong."


def layout(finding: Finding) -> str:
    """The lines for a finding, at most 80 columns wide. Its command gets a line of its own, of any length."""
    indent = " " * (NAME_WIDTH + STATE_WIDTH)
    start = f"{finding.name:<{NAME_WIDTH}}{finding.state:<{STATE_WIDTH}}"
    text = textwrap.fill(
        printable(finding.text), COLUMNS, initial_indent=start, subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return text if finding.command is None else f"{text}\n{indent}{printable(finding.command)}"


def anonymous(text: str) -> str:
    """Removes user names from the paths of home directories."""
    home = str(Path("~").expanduser()) if "HOME" in os.environ else ""
    if len(home) > 1:
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    return re.sub(r"/(home|Users)/[^/\s]+", r"/\1/...", text)


def _look_at_everything(data_dir: Path | None) -> Iterator[Finding]:
    yield look_at_python(sys.version_info[:2])
    yield Finding("promptreel", "ok", installed_version())
    yield from _look_at_torch()
    yield look_at_sqlite(sqlite_version())
    yield look_at_codecs()
    yield look_at_heif()
    bad = list_bad_settings()
    yield from (Finding("settings", "WRONG", line, f"unset {line.partition(':')[0]}") for line in bad)
    if bad:
        yield Finding("port", "-", "not checked: fix the settings first")
        yield Finding("data", "-", "not checked: fix the settings first")
        return
    names = sorted(name for name in os.environ if name.startswith(PREFIX) and os.environ[name])
    yield Finding("settings", "ok", ", ".join(names) or "none is set")
    settings = load_settings(data_dir=data_dir)
    yield look_at_port(settings)
    yield look_at_data(settings.data_dir)
    yield look_at_disk(settings.data_dir)


def look_at_python(version: tuple[int, int]) -> Finding:
    text = f"{platform.python_version()} on {platform.system()} {platform.release()}, {platform.machine()}"
    if version > NEWEST_TESTED:
        return Finding("python", "-", f"{text}; Promptreel is tested with up to {'.'.join(map(str, NEWEST_TESTED))}")
    return Finding("python", "ok", text)


def _look_at_torch() -> Iterator[Finding]:
    missing = missing_modules("worker")
    if "torch" in missing:
        yield Finding("torch", "-", "not installed: videos can only be made by a server", install_command("worker"))
        return
    if missing:
        yield Finding("torch", "WRONG", f"the worker also needs {', '.join(missing)}", install_command("worker"))
        return
    try:
        from promptreel.generation.devices import look_at_torch, try_devices  # noqa: PLC0415 - takes seconds
    except (ImportError, OSError) as error:
        first = str(error).partition("\n")[0]
        yield Finding(
            "torch", "WRONG", f"cannot be loaded: {first}", f"pip install --force-reinstall torch=={_pinned('torch')}"
        )
        return
    yield judge_torch(look_at_torch(), pinned=_pinned("torch"), driver=_read_driver())
    for device, problem in try_devices().items():
        if problem is None:
            yield Finding("device", "ok", device)
        else:
            yield Finding("device", "WRONG", f"{device}: {problem}", "nvidia-smi")


def judge_torch(build: TorchBuild, *, pinned: str | None, driver: str | None) -> Finding:
    """`driver` is the version of NVIDIA's driver, if there is one."""
    text = f"{build.version}, built for {build.platform}"
    if driver or not build.finds_gpu:
        text += f", NVIDIA's driver {driver}" if driver else ", no NVIDIA driver"
    if pinned and build.version.partition("+")[0] != pinned:
        return Finding("torch", "WRONG", f"{text}; Promptreel needs {pinned}", install_command("worker"))
    if driver and not build.finds_gpu:
        if build.platform == "CPU":
            reinstall = f"pip install --force-reinstall torch=={build.version.partition('+')[0]}"
            return Finding("torch", "WRONG", f"{text}; this build cannot use the GPU", reinstall)
        reasons = "the driver may be too old, or CUDA_VISIBLE_DEVICES may hide the GPU"
        return Finding("torch", "WRONG", f"{text}; it finds no GPU: {reasons}", "nvidia-smi")
    return Finding("torch", "ok", text)


def _pinned(name: str) -> str | None:
    """The exact version of a package that Promptreel requires, if it requires one."""
    for line in importlib.metadata.requires("promptreel") or []:
        if found := re.match(rf"{name}==([\w.]+)", line):
            return found[1]
    return None


def _read_driver() -> str | None:
    try:
        found = re.search(r"\b(\d+\.\d+(\.\d+)?)\b", _NVIDIA_DRIVER.read_text())
    except OSError:
        return None
    return found[1] if found else "unknown"


def look_at_sqlite(version: tuple[int, int, int]) -> Finding:
    text = ".".join(map(str, version))
    try:
        refuse_affected_sqlite(version)
    except BadConfiguration:
        reinstall = "pip install --force-reinstall --only-binary :all: pysqlite3"
        return Finding("sqlite", "WRONG", f"{text} can lose committed writes (the WAL-reset bug)", reinstall)
    return Finding("sqlite", "ok", f"{text}, without the WAL-reset bug")


def look_at_codecs() -> Finding:
    if not is_installed("media"):
        return Finding("codecs", "-", "not installed: pictures and videos cannot be read", install_command("media"))
    writes = {name for name, encoder in _ENCODERS.items() if _has_codec(encoder, "w")}
    reads = {name for name, decoder in _DECODERS.items() if _has_codec(decoder, "r")}
    lacks = [f"write {name}" for name in _ENCODERS if name not in writes]
    lacks += [f"read {name}" for name in _DECODERS if name not in reads]
    version = importlib.metadata.version("av")
    if lacks:
        reinstall = "pip install --force-reinstall --only-binary :all: av"
        return Finding("codecs", "WRONG", f"av {version} cannot {', '.join(lacks)}", reinstall)
    return Finding("codecs", "ok", f"av {version} writes {', '.join(_ENCODERS)}; reads {', '.join(_DECODERS)}")


def _has_codec(name: str, mode: Literal["r", "w"]) -> bool:
    from av.codec import Codec  # noqa: PLC0415 - an extra
    from av.codec.codec import UnknownCodecError  # noqa: PLC0415 - an extra

    try:
        Codec(name, mode)
    except UnknownCodecError:
        return False
    return True


def look_at_heif() -> Finding:
    if heif.is_installed():
        return Finding("heif", "ok", f"pillow-heif {importlib.metadata.version('pillow-heif')} reads HEIC")
    return Finding("heif", "-", "not installed: HEIC photos cannot be read", install_command("heif"))


def look_at_port(settings: Settings) -> Finding:
    """The port is fine if it is free, or if Promptreel itself has it."""
    host, port = settings.host, settings.port
    if port == 0:
        return Finding("port", "ok", "0: each start takes a free port")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if version := _ask_version(host, port):
            return Finding("port", "ok", f"{port}: Promptreel {version} is running there")
        return Finding("port", "WRONG", f"Promptreel cannot listen on {port}: {error.strerror}", "promptreel serve --port 0")
    return Finding("port", "ok", f"{port} is free")


def _ask_version(host: str, port: int) -> str | None:
    """The version of the Promptreel that answers there, if one does."""
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - only compared: this listens on nothing
    connection = http.client.HTTPConnection(loopback.get(host, host), port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/health")
        answer = json.loads(connection.getresponse().read(10_000))
        return str(answer["version"]) if {"version", "queued", "workers"} <= set(answer) else None
    except (OSError, ValueError, TypeError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def look_at_data(folder: Path) -> Finding:
    existing = _nearest_existing(folder)
    if not existing.is_dir():
        return Finding("data", "WRONG", f"{existing} is not a folder", f"mv {existing} {existing}.old")
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding("data", "WRONG", f"{existing} cannot be written to by this user", f"sudo chown $(id -u) {existing}")
    if existing != folder:
        return Finding("data", "ok", f"{folder} will be created at the first start")
    mode = folder.stat().st_mode & 0o777
    if mode & 0o077:
        return Finding("data", "-", f"{folder}, writable; other users can read it (mode {mode:o})", f"chmod 700 {folder}")
    return Finding("data", "ok", f"{folder}, writable, mode {mode:o}")


def look_at_disk(folder: Path, *, least: int = LEAST_FREE_BYTES) -> Finding:
    parent = _nearest_existing(folder)
    free = shutil.disk_usage(parent).free
    if free < least:
        return Finding("disk", "WRONG", f"{free / 1e9:.1f} GB free: make room, or give another --data-dir", f"df -h {parent}")
    return Finding("disk", "ok", f"{free / 1e9:.1f} GB free")


def _nearest_existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return next(each for each in (folder, *folder.parents) if each.exists())

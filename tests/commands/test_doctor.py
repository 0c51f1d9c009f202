"""`promptreel doctor`: finds problems, names a command that fixes each, and prints nothing secret."""

from __future__ import annotations

import socket
import subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from promptreel.commands.doctor import (
    COLUMNS,
    Finding,
    anonymous,
    judge_torch,
    layout,
    look_at_data,
    look_at_disk,
    look_at_port,
    look_at_python,
    look_at_sqlite,
)
from promptreel.settings import Settings
from promptreel.version import installed_version
from tests.command_line import run_promptreel


def run(**settings: str) -> subprocess.CompletedProcess[str]:
    ran = run_promptreel("doctor", **{"port": "0"} | settings)
    assert ran.stderr == ""
    own = settings.get("data_dir", " ")  # a long path is not folded
    assert [line for line in ran.stdout.splitlines() if len(line) > COLUMNS and own not in line] == []
    return ran


@pytest.mark.slow
def test_whole_machine_has_nothing_wrong_and_nothing_is_made(tmp_path: Path) -> None:
    ran = run(data_dir=str(tmp_path / "data"))

    states = dict(line.split()[:2] for line in ran.stdout.splitlines() if line and not line.startswith(" "))
    states.pop("Nothing")
    assert states.keys() >= {"python", "promptreel", "torch", "device", "sqlite", "codecs", "heif", "settings", "port", "data"}
    assert set(states.values()) == {"ok"}
    assert f"promptreel  ok     {installed_version()}\n" in ran.stdout
    assert ran.stdout.endswith("\nNothing is wrong.\n")
    assert ran.returncode == 0
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_bad_settings_are_named_without_their_values() -> None:
    ran = run(prot="8000", host_key="pr_secret", workers="pr_other_secret", database_url="sqlite:////x?password=hidden")

    assert ran.returncode == 1
    assert "settings    WRONG  PROMPTREEL_WORKERS: Input should be a valid integer" in ran.stdout
    assert "settings    WRONG  PROMPTREEL_PROT: there is no such setting; do you mean" in ran.stdout
    assert "unset PROMPTREEL_PROT\n" in ran.stdout
    assert "3 things are wrong." in ran.stdout
    assert "secret" not in ran.stdout
    assert "hidden" not in ran.stdout


@pytest.mark.slow
def test_good_settings_are_named_without_their_values(tmp_path: Path) -> None:
    ran = run(data_dir=str(tmp_path), api_key="pr_secret")

    assert "settings    ok     PROMPTREEL_API_KEY, PROMPTREEL_DATA_DIR, PROMPTREEL_PORT\n" in ran.stdout
    assert "secret" not in ran.stdout


@pytest.mark.slow
def test_port_that_another_program_has_is_wrong() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        found = look_at_port(Settings(port=other.getsockname()[1]))
        other.close()
        assert (found.state, found.command) == ("WRONG", "promptreel serve --port 0")
        assert "Address already in use" in found.text

    assert look_at_port(Settings(port=other_port())).state == "ok"


def other_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"status": "ok", "version": "9.9", "workers": 1, "queued": 0, "running": 0}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not on stderr."""


def test_port_where_promptreel_answers_is_all_right() -> None:
    server = HTTPServer(("127.0.0.1", 0), Health)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()

    found = look_at_port(Settings(port=server.server_port))

    server.shutdown()
    server.server_close()
    assert (found.state, found.text) == ("ok", f"{server.server_port}: Promptreel 9.9 is running there")


def test_data_directory(tmp_path: Path) -> None:
    closed, open_to_others, file = tmp_path / "closed", tmp_path / "open", tmp_path / "file"
    closed.mkdir(mode=0o700)
    open_to_others.mkdir()
    open_to_others.chmod(0o755)
    file.touch()

    assert look_at_data(closed) == Finding("data", "ok", f"{closed}, writable, mode 700")
    assert look_at_data(closed / "a" / "b") == Finding("data", "ok", f"{closed / 'a' / 'b'} will be created at the first start")
    assert look_at_data(open_to_others).command == f"chmod 700 {open_to_others}"
    assert look_at_data(file / "data") == Finding("data", "WRONG", f"{file} is not a folder", f"mv {file} {file}.old")


def test_disk_that_is_nearly_full_is_wrong(tmp_path: Path) -> None:
    assert look_at_disk(tmp_path / "data", least=0).state == "ok"
    assert look_at_disk(tmp_path / "data", least=10**18).state == "WRONG"


def test_sqlite_that_loses_writes_is_wrong() -> None:
    assert look_at_sqlite((3, 51, 3)).state == "ok"
    assert look_at_sqlite((3, 51, 2)) == Finding(
        "sqlite",
        "WRONG",
        "3.51.2 can lose committed writes (the WAL-reset bug)",
        "pip install --force-reinstall --only-binary :all: pysqlite3",
    )


def test_untested_python_is_reported() -> None:
    assert [look_at_python(version).state for version in ((3, 11), (3, 14), (3, 15))] == ["ok", "ok", "-"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "platform", "finds_gpu", "driver", "state", "command"),
    [
        ("2.13.0+cpu", "CPU", False, None, "ok", None),
        ("2.13.0", "CUDA 13.0", True, "590.1", "ok", None),
        ("2.13.0", "CUDA 13.0", False, None, "ok", None),
        ("2.13.0+rocm7.1", "ROCm 7.1", True, None, "ok", None),
        ("2.13.0+cpu", "CPU", False, "590.1", "WRONG", "pip install --force-reinstall torch==2.13.0"),
        ("2.13.0", "CUDA 13.0", False, "470.1", "WRONG", "nvidia-smi"),
        ("2.12.0", "CPU", False, None, "WRONG", "pip install 'promptreel[worker]'"),
    ],
)
def test_torch_must_be_the_pinned_one_and_use_the_gpu_that_is_there(
    version: str, platform: str, finds_gpu: bool, driver: str | None, state: str, command: str | None
) -> None:
    from promptreel.generation.devices import TorchBuild  # noqa: PLC0415 - imports torch, which takes a second

    found = judge_torch(TorchBuild(version, platform, finds_gpu=finds_gpu), pinned="2.13.0", driver=driver)

    assert (found.state, found.command) == (state, command)
    assert found.text.startswith(version)


def test_long_words_are_folded_and_commands_are_not() -> None:
    command = "pip install " + " ".join(["something"] * 12)
    first, *more, last = layout(Finding("torch", "WRONG", "word " * 40, command)).splitlines()

    assert first.startswith("torch       WRONG  word")
    assert all(len(line) <= COLUMNS for line in [first, *more])
    assert last.strip() == command


def test_names_of_users_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/alice")

    assert anonymous("/srv/alice/data /srv/alice, /srv/alicent") == "~/data ~, /srv/alicent"
    assert anonymous("/home/bob/data and /Users/carol") == "/home/.../data and /Users/..."

"""The command line as a user types it: every command works, and every error is one line."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.main import get_command

from promptreel.bootstrap import build_keys
from promptreel.cli import app
from promptreel.jobs.database import migrate, open_database, write_transaction
from promptreel.jobs.deliveries import DeliveryStore, Outcome
from promptreel.jobs.job import Result
from promptreel.jobs.params import SCHEDULERS
from promptreel.jobs.store import JobStore
from promptreel.settings import load_settings
from promptreel.version import installed_version
from tests.command_line import run_promptreel as run
from tests.counting import make_count
from tests.hostile.media import webp_of_one_colour
from tests.jobs.factories import WEBHOOK, make_new_job
from tests.models.checkpoints import make_checkpoint
from tests.rules.test_cli_page import visible_commands
from tests.waiting import wait_for


def check_refused(ran: subprocess.CompletedProcess[str], why: str) -> None:
    """Exit code 2 and one message, without a traceback."""
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith("promptreel: ")
    assert why in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[JobStore]:
    database = open_database(f"sqlite:///{tmp_path / 'promptreel.db'}")
    migrate(database)
    yield JobStore(database)
    database.dispose()


def test_help_names_the_commands() -> None:
    ran = run("--help")

    for command in ("serve", "worker", "generate", "jobs", "models", "keys"):
        assert command in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["a cat", "-o", "cat.avi"], "The name 'cat.avi' must end in one of .mp4, .webm, .gif."),
        (["a cat", "-o", "cat"], "The name 'cat' must end in one of .mp4, .webm, .gif."),
        (["a cat", "--scheduler", "Fast"], "There is no scheduler 'Fast'"),
        (["a cat", "--model", "midjourney"], "Known models: cutout"),
        ([" "], "The prompt is empty"),
        (["a cat", "-o", "absent/video.mp4"], "There is no folder 'absent': create it"),
        (["a cat", "-o", "absent/video.mp4", "--server", "http://127.0.0.1:9"], "There is no folder 'absent': create it"),
        pytest.param(
            ["a cat", "--server", "http://127.0.0.1:9"], "Check its address, and whether it runs.", marks=pytest.mark.slow
        ),
    ],
)
def test_generate_refuses_what_it_cannot_make(tmp_path: Path, arguments: list[str], why: str) -> None:
    check_refused(run("generate", "-o", tmp_path / "video.mp4", *arguments, data_dir=str(tmp_path)), why)
    assert not (tmp_path / "video.mp4").exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read: No such file"),
        (b"hello", "must be one of video/mp4, video/webm"),
        (b"GIF89a", "init video"),
        (webp_of_one_colour(6000, 6000), "must not be greater than 14 million pixels"),
    ],
)
def test_unusable_init_is_a_one_line_error(tmp_path: Path, content: bytes | None, why: str) -> None:
    if content is not None:
        (tmp_path / "init").write_bytes(content)

    check_refused(run("generate", "a cat", "--init", tmp_path / "init", data_dir=str(tmp_path)), why)


def test_folder_that_is_a_file_of_the_wanted_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").mkdir()

    check_refused(run("generate", "a cat", "-o", tmp_path / "video.mp4"), "is a folder: give a file name")


def test_version_is_printed() -> None:
    assert run("--version").stdout == f"promptreel {installed_version()}\n"


def test_models_list_shows_what_cannot_be_used_and_why(tmp_path: Path) -> None:
    models = tmp_path / "models"
    make_checkpoint(models / "tiny")
    shutil.copytree(models / "tiny", models / "broken")
    (models / "broken" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    for name in ("bare", "no id"):
        (models / name).mkdir()
    (models / "mine.safetensors").touch()
    (models / "README").touch()
    listed = run("models", "list", "--data-dir", tmp_path)
    rows = json.loads(run("models", "list", "--json", "--data-dir", tmp_path).stdout)

    assert listed.stdout.splitlines()[0].split() == [
        "ID",
        "KIND",
        "FAMILY",
        "BASE",
        "SIZE",
        "USABLE",
        "LOADED",
        "SOURCE",
        "NAME",
    ]
    usable = [(row["id"], row["problem"] is None) for row in rows]
    assert usable == [
        ("broken", False), ("cutout", True), ("tiny", True), ("bare", False), ("mine.safetensors", False), ("no id", False),
    ]  # fmt: skip
    for row in rows:
        assert re.search(rf"^{row['id']}( +\S+){{4}} +{'no' if row['problem'] else 'yes'} ", listed.stdout, re.MULTILINE)
        assert row["problem"] is None or f"\n{row['id']} cannot be used: {row['problem']}\n" in listed.stdout
    assert "Write promptreel.json into it" in rows[3]["problem"]
    assert "vae" in rows[0]["problem"]
    assert listed.stderr == ""


def test_own_model_hidden_by_a_built_in_one_is_reported(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "cutout")
    listed = run("models", "list", "--data-dir", tmp_path).stdout

    assert re.findall(r"^cutout(?: +\S+){4} +(yes|no) ", listed, re.MULTILINE) == ["yes", "no"]
    assert "the built-in model of this name is used in its place" in listed


def test_jobs_can_be_listed_shown_and_cancelled(jobs: JobStore, tmp_path: Path) -> None:
    first, second = (jobs.submit(make_new_job(prompt)) for prompt in ("a red cat", "a blue rocket"))
    header = r"ID +STATUS +CREATED \(UTC\) +MODEL +PROMPT\n"
    lines = [
        rf"{job.id} +{status} +{job.created_at:%Y-%m-%d %H:%M:%S} +cutout +{job.params.prompt}\n"
        for job, status in ((first, "cancelled"), (second, "queued"))
    ]

    assert re.fullmatch(header + lines[0], run("jobs", "cancel", first.id, "--data-dir", tmp_path).stdout)
    count = jobs.submit(make_count())  # of a kind that the command does not know
    lines.append(rf"{count.id} +queued +{count.created_at:%Y-%m-%d %H:%M:%S} +cutout +\(count\)\n")
    assert re.fullmatch(header + "".join(reversed(lines)), run("jobs", "list", "--data-dir", tmp_path).stdout)
    shown = json.loads(run("jobs", "show", count.id, "--json", "--data-dir", tmp_path).stdout)
    assert (shown["kind"], shown["video_id"], shown["up_to"]) == ("count", None, 3)


def test_jobs_are_listed_by_state_model_and_key(jobs: JobStore, tmp_path: Path) -> None:
    made, _ = build_keys(load_settings(data_dir=tmp_path)).create("shop")
    shop = jobs.submit(replace(make_new_job(), api_key_id=made.id)).id
    other = jobs.submit(make_new_job(model_id="tiny")).id
    gone = jobs.cancel(jobs.submit(make_new_job()).id).id

    def ids(*options: object) -> list[int]:
        return [job["id"] for job in json.loads(run("jobs", "list", "--json", *options, "--data-dir", tmp_path).stdout)]

    assert ids() == [gone, other, shop]
    assert ids("--limit", 1) == ids("--status", "cancelled") == [gone]
    assert ids("--model", "tiny") == [other]
    assert ids("--key", made.id) == ids("--key", made.prefix) == [shop]
    assert ids("--status", "running") == []


def test_all_of_a_job_is_shown(jobs: JobStore, tmp_path: Path) -> None:
    made, _ = build_keys(load_settings(data_dir=tmp_path)).create("shop")
    new = replace(make_new_job("a red cat", seed=77), api_key_id=made.id, track_id="t-1", webhook_url=WEBHOOK)
    job_id = jobs.submit(new).id
    claim, job = jobs.claim("worker-1")
    jobs.give_back(claim)
    claim, job = jobs.claim("worker-2")
    file = tmp_path / "results" / job.file_prefix / "2.mp4"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"video")
    facts = {"device": "cpu", "stages": {"denoising": 1.5}}
    jobs.finish(claim, Result(key=f"{job.file_prefix}/2.mp4", size_bytes=5, sha256="abc", facts=facts))

    shown = run("jobs", "show", job_id, "--data-dir", tmp_path).stdout
    told = json.loads(run("jobs", "show", job_id, "--json", "--data-dir", tmp_path).stdout)

    lines = dict(re.split(r"  +", line, maxsplit=1) for line in shown.splitlines())
    expected = {
        "id": str(job_id), "status": "succeeded", "prompt": "a red cat", "seed": "77", "model_id": "cutout", "track_id": "t-1",
        "webhook": WEBHOOK, "api_key": "1 (shop)", "file": str(file), "size_bytes": "5", "sha256": "abc",
        "made": "device cpu, stages denoising 1.5", "created_at": f"{job.created_at:%Y-%m-%d %H:%M:%S}",
    }  # fmt: skip
    assert lines.items() >= expected.items()
    assert {"started_at", "finished_at", "waited_seconds", "took_seconds"} <= lines.keys()
    assert re.fullmatch(r"from .* until .*, \w+, by worker-1", lines["attempt 1"])
    assert re.fullmatch(r"from .* until .*, succeeded, by worker-2", lines["attempt 2"])
    assert [attempt["worker"] for attempt in told["attempts"]] == ["worker-1", "worker-2"]
    assert told["file"] == str(file)
    file.unlink()
    assert "deleted" in run("jobs", "show", job_id, "--data-dir", tmp_path).stdout


def test_why_a_job_failed_is_shown(jobs: JobStore, tmp_path: Path) -> None:
    job_id = jobs.submit(make_new_job()).id
    claim, _ = jobs.claim("w")
    jobs.fail(claim, code="out_of_memory", message="Ask for less.")

    assert "failed (out_of_memory)" in run("jobs", "list", "--data-dir", tmp_path).stdout
    assert re.search(r"error_message +Ask for less\.", run("jobs", "show", job_id, "--data-dir", tmp_path).stdout)


def test_prompt_cannot_steer_the_terminal(jobs: JobStore, tmp_path: Path) -> None:
    job_id = jobs.submit(make_new_job("a\x1b[2Jcat\nb\u202e")).id

    for words in (["list"], ["show", job_id]):
        shown = run("jobs", *words, "--data-dir", tmp_path).stdout
        assert r"a\x1b[2Jcat\nb\u202e" in shown
        assert shown.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "words",
    [
        ["jobs", "list"], ["jobs", "show", 1], ["jobs", "cancel", 1], ["jobs", "deliveries", 1], ["jobs", "redeliver", 1],
        ["keys", "list"], ["keys", "revoke", "1"], ["keys", "webhook-secret", "1"], ["models", "list"],
    ],
)  # fmt: skip
def test_read_only_commands_create_nothing(tmp_path: Path, words: list[object]) -> None:
    check_refused(
        run(*words, "--data-dir", tmp_path / "typo"), f"There is no {'data directory' if 'models' in words else 'database'}"
    )
    assert not (tmp_path / "typo").exists()
    (tmp_path / "typo").mkdir()
    run(*words, "--data-dir", tmp_path / "typo")
    assert list((tmp_path / "typo").iterdir()) == []


def test_help_is_whole_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = {}
    for words in ([], ["jobs"], ["keys"], ["models"], *(name.split()[1:] for name, _ in visible_commands(get_command(app)))):
        text = shown[" ".join(words)] = run(*words, "--help").stdout
        assert max(map(len, text.splitlines())) <= 80, words
        assert not re.search(r"…|\.\.\.$", text.replace("[ARGS]...", ""), re.MULTILINE), words
    assert all(name in shown["generate"] for name in (*SCHEDULERS, "--no-enhance-prompt", "4294967295"))


def test_deliveries_of_a_job_can_be_read_and_asked_for_again(jobs: JobStore, tmp_path: Path) -> None:
    quiet, told = (jobs.cancel(jobs.submit(make_new_job(webhook_url=url)).id).id for url in (None, WEBHOOK))
    database = open_database(f"sqlite:///{tmp_path / 'promptreel.db'}")
    deliveries = DeliveryStore(database)
    next_at = datetime(2099, 1, 2, 3, 4, 5, 500_000, tzinfo=UTC)  # processes' clocks differ by microseconds
    claim, _ = wait_for(lambda: deliveries.claim("c"))  # due now, by a clock that may be set back meanwhile
    deliveries.record_failed(claim, Outcome(seconds=1.25, status=503), next_at=next_at)
    ((delivery, (attempt,)),) = deliveries.list(told)
    database.dispose()

    assert "was sent without a webhook" in run("jobs", "deliveries", quiet, "--data-dir", tmp_path).stdout
    lines = run("jobs", "deliveries", told, "--data-dir", tmp_path).stdout.splitlines()
    told_by_line = [re.split("  +", line) for line in lines]
    assert told_by_line[1].pop(2) in {"2099-01-02 03:04:04", "2099-01-02 03:04:05"}  # clocks differ by microseconds
    assert told_by_line == [
        ["DELIVERY", "STATE", "NEXT ATTEMPT (UTC)", "URL"],
        [delivery.id, "pending", WEBHOOK],
        ["ATTEMPT", "STARTED (UTC)", "RESULT"],
        ["1", f"{attempt.started_at:%Y-%m-%d %H:%M:%S}", "status 503 after 1.2 s"],
    ]
    again = run("jobs", "redeliver", told, "--data-dir", tmp_path).stdout.splitlines()
    assert re.fullmatch(rf"{delivery.id} +pending +20[2-8]\d.*", again[1])
    check_refused(run("jobs", "redeliver", quiet, "--data-dir", tmp_path), f"Job {quiet} has nothing to deliver")
    check_refused(run("jobs", "deliveries", 99, "--data-dir", tmp_path), "There is no job 99")


def test_webhook_secret_is_shown_and_stays(tmp_path: Path) -> None:
    first, second = (run("jobs", "webhook-secret", "--data-dir", tmp_path).stdout for _ in range(2))

    assert first == second
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=\n", first)


def test_unknown_job_is_a_one_line_error(jobs: JobStore, tmp_path: Path) -> None:
    check_refused(run("jobs", "show", 99, "--data-dir", tmp_path), "There is no job 99")


def test_port_in_use_is_a_one_line_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = run("serve", "--port", port, "--data-dir", tmp_path)

    check_refused(ran, f"cannot listen on 127.0.0.1:{port}: ")
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_unusable_data_directory_is_a_one_line_error(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("in the way")
    ran = run(command, "--data-dir", tmp_path / "file")

    check_refused(ran, str(tmp_path / "file"))
    assert len(ran.stderr.splitlines()) == 1


def test_bad_setting_is_named(tmp_path: Path) -> None:
    check_refused(run("jobs", "list", "--data-dir", tmp_path, workers="many"), "PROMPTREEL_WORKERS=many")


def test_commands_that_only_read_wait_for_no_writer(jobs: JobStore, tmp_path: Path) -> None:
    job_id = jobs.submit(make_new_job(webhook_url=WEBHOOK)).id
    jobs.cancel(job_id)
    database = open_database(f"sqlite:///{tmp_path / 'promptreel.db'}")
    with write_transaction(database):
        for words in (["jobs", "list"], ["jobs", "show", job_id], ["jobs", "deliveries", job_id], ["keys", "list"]):
            ran = run(*words, data_dir=str(tmp_path))
            assert (ran.returncode, ran.stderr) == (0, "")
    database.dispose()

"""`promptreel models` as a user runs it, on public repositories' file lists, rebuilt tiny."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from promptreel.bootstrap import build_database_of_service, build_jobs
from promptreel.jobs.worker_records import WorkerRecord
from promptreel.settings import load_settings
from tests.command_line import run_promptreel
from tests.fetching.file_host import COMMIT, FileHost, hosting
from tests.models.repositories import PICKLE, sharded, tiny_adapter, tiny_pipeline, tiny_vae, with_variants
from tests.waiting import wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("tiny")
    return {
        "pipeline": tiny_pipeline(folder / "pipeline"),
        "adapter": tiny_adapter(folder / "adapter"),
        "vae": tiny_vae(folder / "vae"),
    }


@pytest.fixture
def host() -> Iterator[FileHost]:
    with hosting() as host:
        yield host


class Commands:
    """Runs `promptreel models` on a data directory of its own; `host` is its hub, and may be fetched from."""

    def __init__(self, data_dir: Path, host: FileHost) -> None:
        self.data_dir = data_dir
        self.settings = {
            "hub": "on",
            "hub_endpoint": host.url,
            "fetch_allow_networks": "127.0.0.0/8",
            "fetch_allow_ports": str(host.port),
        }

    def __call__(self, *words: object, fails: bool = False, **settings: str) -> subprocess.CompletedProcess[str]:
        done = run_promptreel("models", *words, "--data-dir", self.data_dir, **self.settings | settings)
        assert (done.returncode != 0) is fails, done.stdout + done.stderr
        return done

    def show(self, model_id: str) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(self("show", model_id, "--json").stdout)
        return shown

    def ids(self) -> list[str]:
        return [each["id"] for each in json.loads(self("list", "--json").stdout)]

    def stored(self) -> list[str]:
        return sorted(
            path.name for path in (self.data_dir / "model-files").glob("*") if path.is_file() and path.name != ".lock"
        )


@pytest.fixture
def models(tmp_path: Path, host: FileHost) -> Commands:
    (tmp_path / "data").mkdir()
    return Commands(tmp_path / "data", host)


def lay_out(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_public_repositories_are_imported_with_one_command_each(
    models: Commands, host: FileHost, tiny: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    """Their file lists; no file is moved by hand."""
    pipeline, adapter, vae = tiny["pipeline"], tiny["adapter"], tiny["vae"]
    weights = adapter["diffusion_pytorch_model.safetensors"]
    host.repositories = {
        "stable-diffusion-v1-5/stable-diffusion-v1-5": with_variants(pipeline) | {"v1-5-pruned.ckpt": PICKLE},
        "Lykon/dreamshaper-8": with_variants(pipeline, pickled=False),
        "SG161222/Realistic_Vision_V5.1_noVAE": with_variants(pipeline, fp16=False) | {"Realistic_Vision_V5.1.ckpt": PICKLE},
        "emilianJR/epiCRealism": with_variants(pipeline, fp16=False, pickled=False),
        "an/fp16-only": with_variants(pipeline, plain=False, pickled=False),
        "an/sharded": sharded(pipeline, "unet/diffusion_pytorch_model.safetensors", tmp_path),
        "guoyww/animatediff-motion-adapter-v1-5-2": with_variants(adapter, pickled=False),
        "guoyww/animatediff-motion-adapter-v1-5-3": with_variants(adapter, plain=False, pickled=False),
        "wangfuyun/AnimateLCM": adapter | {"AnimateLCM_sd15_t2v.ckpt": PICKLE, "AnimateLCM_sd15_t2v_lora.safetensors": weights},
        "stabilityai/sd-vae-ft-mse": with_variants(vae, fp16=False),
    }

    for repo in host.repositories:
        models("add", repo)

    listed = {each["id"]: each for each in json.loads(models("list", "--json").stdout)}
    kinds = {name: each["kind"] for name, each in listed.items()}
    assert kinds == {
        "cutout": "checkpoint",
        "stable-diffusion-v1-5": "checkpoint",
        "dreamshaper-8": "checkpoint",
        "Realistic_Vision_V5.1_noVAE": "checkpoint",
        "epiCRealism": "checkpoint",
        "fp16-only": "checkpoint",
        "sharded": "checkpoint",
        "animatediff-motion-adapter-v1-5-2": "motion_adapter",
        "animatediff-motion-adapter-v1-5-3": "motion_adapter",
        "AnimateLCM": "motion_adapter",
        "sd-vae-ft-mse": "vae",
    }
    assert listed["dreamshaper-8"]["source"] == f"Lykon/dreamshaper-8@{COMMIT}"
    assert models.show("dreamshaper-8")["licence"] == "creativeml-openrail-m"
    assert not any(name.endswith((".bin", ".ckpt")) for repo in listed for name in models.show("dreamshaper-8")["files"])
    assert len(models.stored()) < sum(len(files) for files in host.repositories.values()) / 4, "equal files are stored once"


@pytest.mark.parametrize("form", ["a folder", "a file", "a URL", "a file of a hub"])
def test_model_is_added_shown_verified_and_removed(
    models: Commands, host: FileHost, tiny: dict[str, dict[str, bytes]], tmp_path: Path, form: str
) -> None:
    weights = tiny["adapter"]["diffusion_pytorch_model.safetensors"]
    host.files["/v3_sd15_mm.safetensors"] = weights
    host.repositories["ours/motion"] = {"a/v3_sd15_mm.safetensors": weights, "b/other.safetensors": weights}
    lay_out({"v3_sd15_mm/config.json": tiny["adapter"]["config.json"]}, tmp_path)
    source = {
        "a folder": lay_out(tiny["adapter"], tmp_path / "v3_sd15_mm"),
        "a file": lay_out({"v3_sd15_mm.safetensors": weights}, tmp_path) / "v3_sd15_mm.safetensors",
        "a URL": f"{host.url}/v3_sd15_mm.safetensors?token=secret",
        "a file of a hub": "ours/motion:a/v3_sd15_mm.safetensors",
    }[form]

    added = models("add", source, "--name", "Motion", "--trigger-words", "ink, wash", "--licence", "apache-2.0")
    shown = models.show("v3_sd15_mm")
    models("verify", "v3_sd15_mm")
    repeated = models("add", source)
    removed = models("remove", "v3_sd15_mm")

    assert added.stdout.startswith("v3_sd15_mm  (motion adapter")
    assert "noise table: linear betas" in added.stderr
    assert shown["noise_table_why"] in added.stderr
    assert (shown["kind"], shown["name"], shown["trigger_words"], shown["licence"]) == (
        "motion_adapter", "Motion", "ink, wash", "apache-2.0",
    )  # fmt: skip
    assert "secret" not in json.dumps(shown)
    assert repeated.stdout.startswith("v3_sd15_mm  ")
    assert removed.stdout == "v3_sd15_mm was removed\n"
    assert models.ids() == ["cutout"]
    assert models.stored() == []


def test_file_of_two_models_stays_until_both_are_removed(
    models: Commands, tiny: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    folder = lay_out(tiny["adapter"], tmp_path / "adapter")
    models("add", folder, "--id", "one")
    models("add", folder, "--id", "two")
    models("remove", "one")

    models("verify", "two")
    assert len(models.stored()) == 2


def test_id_with_other_files_is_replaced_only_if_asked(
    models: Commands, tiny: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    models("add", lay_out(tiny["adapter"], tmp_path / "adapter"), "--id", "mine")
    refused = models("add", lay_out(tiny["vae"], tmp_path / "vae"), "--id", "mine", fails=True)
    before = models.show("mine")["kind"]
    models("add", tmp_path / "vae", "--id", "mine", "--replace")

    assert "--replace" in refused.stderr
    assert (before, models.show("mine")["kind"]) == ("motion_adapter", "vae")
    assert len(models.stored()) == 2


def test_file_that_was_changed_is_noticed(models: Commands, tiny: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    models("add", lay_out(tiny["adapter"], tmp_path / "adapter"))
    sha256 = models.show("adapter")["files"]["diffusion_pytorch_model.safetensors"]["sha256"]
    path = models.data_dir / "model-files" / sha256
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    refused = models("verify", "adapter", fails=True)
    models("add", tmp_path / "adapter")

    assert "diffusion_pytorch_model.safetensors is not the file that was imported" in refused.stderr
    models("verify", "adapter")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere/at/all"], "There is no file or folder"),
        (["old.ckpt"], "old.ckpt is pickled"),
        (["file.safetensors", "--sha256", "0" * 64], "it is another file"),
        (["file.safetensors", "--id", "cutout"], "that of a model's folder"),
        (["file.safetensors", "--id", "../up"], "begins with a letter or a digit"),
        (["file.safetensors", "--beta-schedule", "cosine"], "beta schedule is invalid"),
        (["file.safetensors", "--owner-key", "77"], "There is no key 77"),
        (["rubbish.safetensors"], "is no safetensors file"),
    ],
)
def test_what_cannot_be_added_is_refused_and_leaves_nothing(
    models: Commands, tiny: dict[str, dict[str, bytes]], tmp_path: Path, words: list[str], says: str
) -> None:
    weights = tiny["adapter"]["diffusion_pytorch_model.safetensors"]
    lay_out({"old.ckpt": PICKLE, "file.safetensors": weights, "rubbish.safetensors": b"\xff" * 64}, tmp_path)
    source = tmp_path / words[0] if (tmp_path / words[0]).exists() else words[0]

    refused = models("add", source, *words[1:], fails=True)

    assert says in refused.stderr
    assert refused.stderr.count("\n") < 12, "a traceback"
    assert models.stored() == []
    assert models.ids() == ["cutout"]


def test_hub_is_off_until_it_is_allowed(models: Commands, host: FileHost) -> None:
    refused = models("add", "ours/motion", fails=True, hub="off")

    assert "PROMPTREEL_HUB=on" in refused.stderr
    assert host.asked == []


def interrupted(models: Commands, source: str, has_begun: Callable[[], bool]) -> int:
    """The exit code of `promptreel models add` that gets Ctrl-C once it has begun."""
    environment = os.environ | {f"PROMPTREEL_{name.upper()}": value for name, value in models.settings.items()}
    program = "from promptreel.cli import main; main()"
    words = [sys.executable, "-c", program, "models", "add", source, "--data-dir", str(models.data_dir)]
    process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
    wait_for(lambda: has_begun() or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    return process.wait(60)


@pytest.mark.parametrize("form", ["a URL", "a hub id"])
def test_after_ctrl_c_nothing_is_registered_and_the_same_command_goes_on(
    models: Commands, host: FileHost, tiny: dict[str, dict[str, bytes]], form: str
) -> None:
    weights = tiny["adapter"]["diffusion_pytorch_model.safetensors"]
    host.files["/adapter.safetensors"] = weights
    host.repositories["ours/adapter"] = {"adapter.safetensors": weights}
    source = {"a URL": f"{host.url}/adapter.safetensors", "a hub id": "ours/adapter"}[form]
    host.holds = True

    def holds_still() -> bool:
        """The host holds the rest back, and the command has written what it got."""
        received = [path.stat().st_size for path in (models.data_dir / "scratch" / "imports").glob("*/file/*")]
        return host.is_holding.is_set() and (form == "a hub id" or len(weights) // 2 in received)

    host.breaks = [len(weights) // 2] if form == "a URL" else [10**9, len(weights) // 2]
    code = interrupted(models, source, holds_still)
    before = models.ids()
    host.released.set()
    models("add", source)

    assert code != 0
    assert before == ["cutout"]
    assert models.ids() == ["cutout", "adapter"]
    models("verify", "adapter")
    if form == "a URL":
        assert host.ranges_asked()[-1] == f"bytes={len(weights) // 2}-"


def test_list_and_show_say_which_workers_have_a_model_loaded(models: Commands) -> None:
    assert json.loads(models("list", "--json").stdout)[0]["loaded_on"] == []
    settings = load_settings(data_dir=models.data_dir)
    record = WorkerRecord(id="host/1", device="cpu (float32)", seconds_per_unit=None, loaded=("cutout",))
    build_jobs(settings, build_database_of_service(settings)).record_worker(record)

    assert models.show("cutout")["loaded_on"] == ["host/1 on cpu (float32)"]
    assert re.search(r"LOADED.*\ncutout .* yes +1 ", models("list").stdout) is not None
    assert re.search(r"loaded_on +host/1 on cpu", models("show", "cutout").stdout) is not None


def test_families_say_what_can_be_run() -> None:
    told = run_promptreel("models", "families").stdout

    assert "AnimateLCM" in told
    assert "LCMScheduler" in told

"""The wheel has all that Promptreel needs when it runs, and nothing else."""

from __future__ import annotations

from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

from promptreel.version import installed_version
from tests.rules.documents import ROOT
from tests.wheel import build_wheel

pytestmark = pytest.mark.slow

MOST_BYTES = 40_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def test_wheel_has_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    packed = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "promptreel").rglob("*") if path.is_file()}

    assert packed == {name for name in files if "__pycache__" not in name}
    assert packed >= {
        "promptreel/py.typed",
        "promptreel/api/swagger_ui/swagger-ui-bundle.js",
        "promptreel/jobs/migrations/env.py",
        "promptreel/jobs/migrations/versions/r0001_the_job_table.py",
        "promptreel/models/built_in/cutout/unet/diffusion_pytorch_model.safetensors",
    }


def test_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < MOST_BYTES


def test_wheel_runs_on_any_python_from_3_11_on_and_says_its_licence(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        facts = f"promptreel-{installed_version()}.dist-info"
        metadata = Parser().parsestr(archive.read(f"{facts}/METADATA").decode())
        assert archive.read(f"{facts}/licenses/NOTICE") == (ROOT / "NOTICE").read_bytes()

    assert wheel.name.endswith("-py3-none-any.whl")
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert {"worker", "heif"} <= set(metadata.get_all("Provides-Extra", []))
    base = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert [line for line in base if line.startswith(("torch", "diffusers", "transformers", "scipy"))] == []

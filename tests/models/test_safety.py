from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from promptreel.errors import CheckpointUnusable
from promptreel.models.safety import check_folder, hash_files
from tests.models.checkpoints import WEIGHTS, make_checkpoint

UNET = WEIGHTS["unet"]


class Evil:
    """Unpickling it creates a file: what a checkpoint must never be able to do."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("pwned",)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return make_checkpoint(tmp_path / "checkpoint")


def test_folder_may_itself_be_a_link(checkpoint, tmp_path):
    (tmp_path / "link").symlink_to(checkpoint)

    assert check_folder(tmp_path / "link") == checkpoint.resolve()


def test_link_within_the_folder_passes(checkpoint):
    (checkpoint / "vae" / "copy.safetensors").symlink_to(checkpoint / WEIGHTS["vae"])

    assert check_folder(checkpoint) == checkpoint.resolve()


@pytest.mark.parametrize(
    "name",
    ["unet/diffusion_pytorch_model.bin", "evil.py", "model.ckpt", "vae/weights.pt", "unet.SAFETENSORS", ".hidden", "noname"],
)
def test_other_kinds_of_file_are_refused_by_name(checkpoint, name):
    (checkpoint / name).write_bytes(pickle.dumps(Evil()))

    with pytest.raises(CheckpointUnusable, match=f"^{name} is refused: only .safetensors"):
        check_folder(checkpoint)


def test_link_out_of_the_folder_is_refused(checkpoint, tmp_path):
    (tmp_path / "secret.json").write_text("{}")
    (checkpoint / "vae" / "config.json").unlink()
    (checkpoint / "vae" / "config.json").symlink_to(tmp_path / "secret.json")

    with pytest.raises(CheckpointUnusable, match=r"vae/config\.json is a link out"):
        check_folder(checkpoint)


def test_linked_folder_outside_is_refused(checkpoint, tmp_path):
    outside = make_checkpoint(tmp_path / "outside")
    (checkpoint / "more").symlink_to(outside / "unet")

    with pytest.raises(CheckpointUnusable, match="more is a link out"):
        check_folder(checkpoint)


def test_link_to_a_namesake_of_the_folder_is_refused(checkpoint, tmp_path):
    """`checkpoint-2` begins with `checkpoint`, but does not lie in it."""
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "a.json").write_text("{}")
    (checkpoint / "a.json").symlink_to(tmp_path / "checkpoint-2" / "a.json")

    with pytest.raises(CheckpointUnusable, match=r"a\.json is a link out"):
        check_folder(checkpoint)


@pytest.mark.parametrize("target", ["nothing.json", "loop.json"])
def test_link_to_nothing_is_refused(checkpoint, target):
    (checkpoint / "loop.json").symlink_to(checkpoint / target)

    with pytest.raises(CheckpointUnusable, match=r"loop\.json is not a plain file"):
        check_folder(checkpoint)


def test_pipe_is_refused_and_not_waited_for(checkpoint):
    os.mkfifo(checkpoint / "pipe.safetensors")

    with pytest.raises(CheckpointUnusable, match=r"pipe\.safetensors is not a plain file"):
        check_folder(checkpoint)


@pytest.mark.parametrize("name", ["missing", "checkpoint/README.md"])
def test_path_that_is_no_folder_is_refused_without_the_path(checkpoint, tmp_path, name):
    with pytest.raises(CheckpointUnusable, match="is not a folder") as caught:
        check_folder(tmp_path / name)
    assert str(tmp_path) not in caught.value.message


def test_folder_with_very_many_files_is_not_walked_to_its_end(checkpoint):
    for number in range(1001):
        (checkpoint / f"{number}.txt").touch()

    with pytest.raises(CheckpointUnusable, match="more than 1000 files"):
        check_folder(checkpoint)


@pytest.mark.parametrize("folders", ["x/" * 900, "a/b/c/d/e/f/g/h/i"])
def test_folders_in_folders_are_not_followed_to_their_end(checkpoint, folders):
    (checkpoint / folders).mkdir(parents=True)

    with pytest.raises(CheckpointUnusable, match="folders in folders"):
        check_folder(checkpoint)


def test_name_that_is_no_text_can_still_be_told(checkpoint):
    (checkpoint / os.fsdecode(b"\xff\n.bin")).touch()

    with pytest.raises(CheckpointUnusable, match=r"\\udcff\\n\.bin is refused") as caught:
        check_folder(checkpoint)
    assert caught.value.message.encode()


def test_equal_files_have_equal_hashes_wherever_they_lie(tmp_path):
    first, second = make_checkpoint(tmp_path / "a"), make_checkpoint(tmp_path / "elsewhere" / "b")

    assert hash_files({UNET: first / UNET}) == hash_files({UNET: second / UNET})
    assert len(hash_files({UNET: first / UNET})) == 64


def test_changed_or_renamed_file_changes_the_hash(checkpoint):
    before = hash_files({UNET: checkpoint / UNET})

    assert hash_files({"unet/other.safetensors": checkpoint / UNET}) != before
    content = bytearray((checkpoint / UNET).read_bytes())
    content[-1] ^= 1
    (checkpoint / UNET).write_bytes(content)
    assert hash_files({UNET: checkpoint / UNET}) != before

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from promptreel.errors import DiskFull, StorageFailed
from promptreel.media import Video
from promptreel.storage.local import LocalStorage


def make_video(path: Path, content: bytes = b"frames " * 100_000) -> Video:
    path.write_bytes(content)
    return Video(path=path, media_type="video/mp4", size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def files_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def save_and_die_at(event: str, tmp_path: Path) -> int:
    """Saves in another process, which is killed just before Python's audit event `event`."""
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from promptreel.storage.local import LocalStorage; from tests.storage.test_local import make_video\n"
        "storage, video = LocalStorage(Path(sys.argv[1], 'files')), make_video(Path(sys.argv[1], 'new.mp4'), b'new' * 999)\n"
        "sys.addaudithook(lambda event, _: event == sys.argv[2] and os.kill(os.getpid(), signal.SIGKILL))\n"
        "storage.save(video, 'a.mp4')"
    )
    return subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), event], env={"PYTHONPATH": ":".join(sys.path)}, check=False
    ).returncode


@pytest.fixture
def storage(tmp_path) -> LocalStorage:
    return LocalStorage(tmp_path / "files")


def test_saved_video_is_found_under_its_key(storage, tmp_path):
    video = make_video(tmp_path / "made.mp4")

    storage.save(video, "d06b5499.mp4")

    path = storage.path("d06b5499.mp4")
    assert path == tmp_path / "files" / "d06b5499.mp4"
    assert path.read_bytes() == video.path.read_bytes()


def test_saving_leaves_nothing_but_the_file(storage, tmp_path):
    storage.save(make_video(tmp_path / "made.mp4"), "a.mp4")

    assert files_below(tmp_path / "files") == ["a.mp4"]


def test_key_may_have_folders(storage, tmp_path):
    storage.save(make_video(tmp_path / "made.mp4"), "7/2/a.mp4")

    assert files_below(tmp_path / "files") == ["7/2/a.mp4"]


def test_saving_again_replaces_the_file(storage, tmp_path):
    storage.save(make_video(tmp_path / "first.mp4", b"first"), "a.mp4")
    storage.save(make_video(tmp_path / "second.mp4", b"second"), "a.mp4")

    assert storage.path("a.mp4").read_bytes() == b"second"


def test_unknown_key_has_no_path(storage):
    assert storage.path("a.mp4") is None


def test_small_file_is_read_whole_or_not_at_all(storage, tmp_path):
    storage.save(make_video(tmp_path / "new.mp4", b"seven"), "a/preview.webp")

    assert storage.read("a/preview.webp") == b"seven"
    assert storage.read("a") is storage.read("b.webp") is storage.read("../new.mp4") is None


def test_folder_is_no_file(storage, tmp_path):
    storage.save(make_video(tmp_path / "made.mp4"), "7/a.mp4")

    assert storage.path("7") is None


def test_deleted_file_is_gone_and_may_be_deleted_again(storage, tmp_path):
    storage.save(make_video(tmp_path / "made.mp4"), "a.mp4")

    storage.delete("a.mp4")
    storage.delete("a.mp4")

    assert storage.path("a.mp4") is None
    assert files_below(tmp_path / "files") == []


BAD_KEYS = ["", ".", "..", "../secret.mp4", "a/../../secret.mp4", "/etc/passwd", "a//b", "a/", "a\\b", ".incoming/x", "a/.b"]
BAD_KEYS += ["a\0.mp4", "a\n", "ä.mp4", "~root", "a" * 201]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_key_that_could_leave_the_root_is_refused(storage, tmp_path, key):
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"secret")
    video = make_video(tmp_path / "made.mp4")
    storage.save(video, "a/b.mp4")

    assert storage.path(key) is None
    with pytest.raises(StorageFailed, match="is not a valid key"):
        storage.save(video, key)
    with pytest.raises(StorageFailed, match="is not a valid key"):
        storage.delete(key)
    assert secret.read_bytes() == b"secret"
    assert files_below(tmp_path / "files") == ["a/b.mp4"]


def test_link_out_of_the_root_is_not_followed(storage, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.mp4").write_bytes(b"secret")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "files" / "link.mp4").symlink_to(tmp_path / "outside" / "secret.mp4")

    assert storage.path("link/secret.mp4") is None
    assert storage.path("link.mp4") is None
    with pytest.raises(StorageFailed, match="is not a valid key"):
        storage.delete("link/secret.mp4")
    assert (tmp_path / "outside" / "secret.mp4").exists()


def test_bytes_are_read_back_from_their_key(storage, tmp_path):
    storage.save_bytes(b"old", "inits/image/ab.png")
    storage.save_bytes(b"new", "inits/image/ab.png")

    assert storage.read("inits/image/ab.png") == b"new"
    assert files_below(tmp_path / "files") == ["inits/image/ab.png"]


def test_bytes_that_are_gone_or_have_no_key_are_none(storage, tmp_path):
    storage.save_bytes(b"gone", "a.png")
    storage.delete("a.png")

    assert storage.read("a.png") is None
    for key in ("../a.png", "/etc/passwd", ""):
        assert storage.read(key) is None
        with pytest.raises(StorageFailed, match="is not a valid key"):
            storage.save_bytes(b"x", key)


def test_crash_between_write_and_rename_leaves_nothing_visible(storage, tmp_path):
    assert save_and_die_at("os.rename", tmp_path) == -signal.SIGKILL

    assert storage.path("a.mp4") is None
    assert not (tmp_path / "files" / "a.mp4").exists()
    assert len(files_below(tmp_path / "files")) == 1  # the finished copy, so the crash came at the right moment


def test_crash_while_replacing_keeps_the_old_file(storage, tmp_path):
    storage.save(make_video(tmp_path / "old.mp4", b"old"), "a.mp4")

    assert save_and_die_at("os.rename", tmp_path) == -signal.SIGKILL

    assert storage.path("a.mp4").read_bytes() == b"old"


def test_save_works_after_a_crash(storage, tmp_path):
    assert save_and_die_at("os.rename", tmp_path) == -signal.SIGKILL

    storage.save(make_video(tmp_path / "again.mp4", b"again"), "a.mp4")

    assert storage.path("a.mp4").read_bytes() == b"again"


def test_crash_in_the_middle_of_the_copy_leaves_nothing_visible(storage, tmp_path):
    """The source is a pipe that stalls after some bytes, so the process is killed in the middle of the copy."""
    os.mkfifo(tmp_path / "pipe.mp4")
    program = (
        "import sys; from pathlib import Path; from promptreel.media import Video\n"
        "from promptreel.storage.local import LocalStorage\n"
        "LocalStorage(Path(sys.argv[1], 'files')).save(Video(Path(sys.argv[1], 'pipe.mp4'), 'video/mp4', 9, '0'), 'a.mp4')"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], env={"PYTHONPATH": ":".join(sys.path)})
    with (tmp_path / "pipe.mp4").open("wb", buffering=0) as pipe:  # opens once the process reads
        pipe.write(b"half")
        process.kill()
        assert process.wait() == -signal.SIGKILL

    assert storage.path("a.mp4") is None
    assert not (tmp_path / "files" / "a.mp4").exists()


def test_file_that_changed_since_it_was_encoded_is_not_stored(storage, tmp_path):
    video = make_video(tmp_path / "made.mp4", b"encoded")
    video.path.write_bytes(b"changed")

    with pytest.raises(StorageFailed, match="changed between encoding and storing"):
        storage.save(video, "a.mp4")
    assert files_below(tmp_path / "files") == []


def test_missing_source_is_a_storage_failure(storage, tmp_path):
    video = make_video(tmp_path / "made.mp4")
    video.path.unlink()

    with pytest.raises(StorageFailed, match="could not be stored") as caught:
        storage.save(video, "a.mp4")
    assert str(tmp_path) not in caught.value.message  # it may reach the client
    assert files_below(tmp_path / "files") == []


def test_root_that_cannot_be_made_is_a_storage_failure(tmp_path):
    (tmp_path / "files").write_bytes(b"a file where the folder should be")

    with pytest.raises(StorageFailed, match="could not be stored"):
        LocalStorage(tmp_path / "files").save(make_video(tmp_path / "made.mp4"), "a.mp4")


def test_key_of_a_folder_is_a_storage_failure_and_leaves_no_copy(storage, tmp_path):
    video = make_video(tmp_path / "made.mp4")
    storage.save(video, "7/a.mp4")

    with pytest.raises(StorageFailed, match="could not be stored"):
        storage.save(video, "7")
    with pytest.raises(StorageFailed, match="could not be deleted"):
        storage.delete("7")
    assert files_below(tmp_path / "files") == ["7/a.mp4"]


def test_deleting_a_file_removes_its_empty_folders(storage, tmp_path):
    for key in ("7/a.mp4", "7/b.mp4", "inits/image/c.png"):
        storage.save_bytes(b"x", key)
    storage.delete("7/a.mp4")
    assert (tmp_path / "files" / "7").is_dir()

    storage.delete("7/b.mp4")
    storage.delete("inits/image/c.png")
    assert [path.name for path in (tmp_path / "files").iterdir()] == [".incoming"]
    storage.save_bytes(b"x", "7/a.mp4")
    assert storage.read("7/a.mp4") == b"x"


def test_saving_survives_concurrent_removal_of_the_folder(storage):
    """Deleting a folder's last file removes the folder, possibly between two steps of a save."""

    def store_and_delete(name):
        for _ in range(50):
            storage.save_bytes(b"x", f"7/{name}")
            storage.delete(f"7/{name}")

    with ThreadPoolExecutor(4) as threads:
        for future in [threads.submit(store_and_delete, str(number)) for number in range(4)]:
            future.result()


def test_full_disk_raises_disk_full_and_leaves_no_partial_file(small_disk):
    storage = LocalStorage(small_disk / "files")
    with pytest.raises(DiskFull, match="Make room"):
        storage.save_bytes(bytes(2_000_000), "7/a.mp4")
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []

    storage.save_bytes(bytes(100_000), "7/a.mp4")


@pytest.fixture
def small_disk(tmp_path):
    """A 1 MB disk, if it may be mounted here. Otherwise only test_video.py and test_worker.py cover this error."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("no disk may be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)

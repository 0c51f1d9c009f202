"""The table of imported models, their stored files, and what a request composes of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from promptreel.errors import CheckpointUnusable, InvalidParams, ModelInUse, ModelNotFound, NotAvailable
from promptreel.jobs.database import Database, migrate, open_database
from promptreel.jobs.job import NewJob
from promptreel.jobs.keys import LOCAL_CALLER, Caller
from promptreel.jobs.params import VideoParams
from promptreel.jobs.store import JobStore
from promptreel.models.composition import compose
from promptreel.models.kinds import ModelKind
from promptreel.models.registry import ModelRegistry
from promptreel.models.store import ModelRecord, ModelStore
from promptreel.models.stored_files import StoredFiles, hash_file
from tests.models.checkpoints import make_card

OWNER, OTHER = Caller(api_key_id=1), Caller(api_key_id=2)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(tmp_path / "promptreel.db")
    migrate(database)
    yield database
    database.dispose()


@pytest.fixture
def store(database: Database) -> ModelStore:
    return ModelStore(database)


@pytest.fixture
def files(tmp_path: Path) -> StoredFiles:
    return StoredFiles(tmp_path / "model-files")


@pytest.fixture
def models(tmp_path: Path, store: ModelStore, files: StoredFiles) -> ModelRegistry:
    return ModelRegistry(built_in=tmp_path / "built_in", models_dir=tmp_path / "models", store=store, files=files)


class Shelf:
    """Adds models whose only file has these bytes."""

    def __init__(self, store: ModelStore, files: StoredFiles, folder: Path) -> None:
        self.store, self.files, self.folder = store, files, folder

    def add(
        self, model_id: str, kind: ModelKind = ModelKind.MOTION_ADAPTER, *, content: bytes = b"weights",
        base: str | None = "sd15", owner: Caller = LOCAL_CALLER, is_public: bool = True, replace: bool = False, **card: object,
    ) -> ModelRecord:  # fmt: skip
        path = self.folder / f"incoming-{threading.get_ident()}"
        path.write_bytes(content)
        file = hash_file(path)
        with self.files.adding():
            self.files.take(path, file)
            record = ModelRecord(
                id=model_id, kind=kind, family="animatediff", base=base, card=card, files={"a.safetensors": file},
                source="here", api_key_id=owner.api_key_id, is_public=is_public,
            )  # fmt: skip
            return self.store.add(record, replace=replace)

    def names(self) -> list[bytes]:
        return sorted(path.read_bytes() for path in self.files.root.glob("?" * 64))


@pytest.fixture
def shelf(store: ModelStore, files: StoredFiles, tmp_path: Path) -> Shelf:
    return Shelf(store, files, tmp_path)


def test_row_is_read_as_it_was_written(shelf: Shelf, store: ModelStore) -> None:
    added = shelf.add("motion", trigger_words=["ink"], has_motion=True)

    assert store.find("motion") == added
    assert added.created_at is not None
    assert len(added.hash) == 64
    assert store.find("nowhere") is None


def test_file_is_stored_once_and_deleted_with_its_last_model(shelf: Shelf, models: ModelRegistry) -> None:
    shelf.add("one", content=b"same")
    shelf.add("two", content=b"same")
    shelf.add("three", content=b"other")

    models.remove("one")
    after_first = shelf.names()
    models.remove("two")

    assert after_first == [b"other", b"same"]
    assert shelf.names() == [b"other"]


def test_leftovers_of_a_crash_are_swept_but_not_beside_an_import(shelf: Shelf, models: ModelRegistry, tmp_path: Path) -> None:
    """Files are stored before their row is: until then, nobody may sweep them."""
    shelf.add("kept", content=b"kept")
    path = tmp_path / "left"
    path.write_bytes(b"left")
    with shelf.files.adding():
        shelf.files.take(path, hash_file(path))
        during = models.sweep()
        seen = shelf.names()
    freed = models.sweep()

    assert (during, seen) == (0, [b"kept", b"left"])
    assert (freed, shelf.names()) == (4, [b"kept"])


def test_folder_is_laid_out_whole_beside_a_sweep(shelf: Shelf, tmp_path: Path) -> None:
    """The sweep has looked already which models there are, so it would take the new folder away."""
    path = tmp_path / "file"
    path.write_bytes(b"kept")
    kept = hash_file(path)
    with shelf.files.adding():
        shelf.files.take(path, kept)
    made: list[Path] = []
    laying = threading.Thread(target=lambda: made.append(shelf.files.lay_out("ab" * 32, {"a.safetensors": kept})))
    waited = []

    def look() -> set[str]:
        laying.start()
        laying.join(0.5)
        waited.append(laying.is_alive())
        return {kept.sha256}

    shelf.files.sweep(look)
    laying.join()

    assert waited == [True]
    assert (made[0] / "a.safetensors").read_bytes() == b"kept"


def test_model_in_use_is_not_removed_unless_forced(shelf: Shelf, models: ModelRegistry, database: Database) -> None:
    shelf.add("motion")
    shelf.add("toon", ModelKind.CHECKPOINT, vae="soft", content=b"toon")
    shelf.add("soft", ModelKind.VAE, content=b"soft")
    jobs = JobStore(database)
    job = jobs.submit(NewJob(params=VideoParams(model_id="toon", prompt="a", motion_adapter="motion"), request={}, cost=1.0))

    for model_id in ("toon", "motion"):
        with pytest.raises(ModelInUse, match="1 queued or running job needs"):
            models.remove(model_id)
    with pytest.raises(ModelInUse, match="toon is made with 'soft'"):
        models.remove("soft")
    jobs.claim("worker-1")
    with pytest.raises(ModelInUse):
        models.remove("toon")
    models.remove("motion", force=True)
    jobs.delete(job.id)
    models.remove("toon")
    models.remove("soft")

    assert models.list() == []


def test_private_model_is_an_unknown_one_to_others(shelf: Shelf, models: ModelRegistry) -> None:
    shelf.add("private", owner=OWNER, is_public=False)
    shelf.add("public", owner=OWNER)
    shelf.add("operators")

    seen = {caller: [card.model_id for card in models.seen_by(caller).list()] for caller in (OWNER, OTHER, LOCAL_CALLER)}
    with pytest.raises(ModelNotFound) as private:
        models.seen_by(OTHER).get("private")
    with pytest.raises(ModelNotFound) as unknown:
        models.seen_by(OTHER).get("nowhere")

    assert seen == {
        OWNER: ["operators", "private", "public"], OTHER: ["operators", "public"], LOCAL_CALLER: ["operators", "public"],
    }  # fmt: skip
    assert private.value.message.replace("private", "nowhere") == unknown.value.message
    assert [card.model_id for card in models.list()] == ["operators", "private", "public"]


def test_only_the_owner_removes_a_model(shelf: Shelf, models: ModelRegistry, store: ModelStore) -> None:
    shelf.add("public", owner=OWNER)
    shelf.add("operators")

    for caller, model_id in ((OTHER, "public"), (LOCAL_CALLER, "public"), (OWNER, "operators")):
        with pytest.raises(NotAvailable, match="promptreel models remove"):
            models.seen_by(caller).remove(model_id)
    models.seen_by(OWNER).remove("public")
    models.seen_by(LOCAL_CALLER).remove("operators")

    assert store.list() == []


def test_id_is_taken_by_its_owner_by_a_folder_or_by_other_files(shelf: Shelf, models: ModelRegistry, tmp_path: Path) -> None:
    shelf.add("mine", owner=OWNER, is_public=False)
    make_card(tmp_path / "models" / "folder")

    for caller, model_id in ((OTHER, "mine"), (OWNER, "folder"), (OWNER, "../up"), (OWNER, "a" * 101)):
        with pytest.raises(InvalidParams):
            models.seen_by(caller).free_id(model_id, "x", source="s", replace=True)
    with pytest.raises(InvalidParams, match="taken"):
        shelf.add("mine", owner=OTHER, replace=True)
    with pytest.raises(InvalidParams, match="--replace"):
        shelf.add("mine", content=b"new", owner=OWNER)
    shelf.add("mine", content=b"new", owner=OWNER, replace=True)
    suggested = [
        models.seen_by(caller).free_id(None, name, source=source, replace=False)
        for caller, name, source in (
            (OWNER, "mine", "here"), (OWNER, "mine", "there"), (OTHER, "mine", "here"), (OWNER, "folder", "s"),
            (OWNER, "free", "s"),
        )
    ]  # fmt: skip

    assert suggested == ["mine", "mine-2", "mine-2", "folder-2", "free"]


def test_folder_hides_an_imported_model_of_its_name(shelf: Shelf, models: ModelRegistry, tmp_path: Path) -> None:
    shelf.add("folder")
    make_card(tmp_path / "models" / "folder")

    assert [card.record for card in models.list()] == [None]
    assert models.get("folder").record is None


# What a request is made with


def test_adapter_is_the_requests_else_the_cards_else_the_only_one_that_fits(shelf: Shelf, models: ModelRegistry) -> None:
    shelf.add("plain", ModelKind.CHECKPOINT, content=b"plain")
    shelf.add("whole", ModelKind.CHECKPOINT, content=b"whole", has_motion=True)
    shelf.add("carded", ModelKind.CHECKPOINT, content=b"carded", motion_adapter="v3", vae="soft")
    shelf.add("soft", ModelKind.VAE, base=None, content=b"soft")
    shelf.add("other", base="sdxl", content=b"sdxl")
    shelf.add("v2", content=b"v2", default_steps=4, default_guidance=1.0)
    one = compose(models, "plain").adapter_id
    shelf.add("v3", content=b"v3")

    with pytest.raises(InvalidParams, match="Name one: v2, v3"):
        compose(models, "plain")
    assert one == "v2"
    assert compose(models, "plain", "v3").adapter_id == "v3"
    assert compose(models, "whole").adapter_id is None
    assert compose(models, "whole", "v2").defaults == {"num_inference_steps": 4, "guidance_scale": 1.0}
    carded = compose(models, "carded")
    assert (carded.adapter_id, carded.vae and carded.vae.model_id) == ("v3", "soft")
    assert compose(models, "carded", "v2").adapter_id == "v2"


@pytest.mark.parametrize(
    ("model_id", "adapter", "error", "says"),
    [
        ("plain", None, InvalidParams, "has no motion adapter, so nothing would move"),
        ("plain", "nowhere", InvalidParams, "There is no motion adapter 'nowhere'"),
        ("plain", "plain", InvalidParams, "'plain' is a checkpoint, not a motion adapter"),
        ("plain", "other", InvalidParams, "'other' is for sdxl, and 'plain' is sd15"),
        ("other", None, ModelNotFound, "Send its id as motion_adapter"),
        ("nowhere", None, ModelNotFound, "There is no model 'nowhere'"),
    ],
)
def test_what_does_not_fit_is_refused(
    shelf: Shelf, models: ModelRegistry, model_id: str, adapter: str | None, error: type[Exception], says: str
) -> None:
    shelf.add("plain", ModelKind.CHECKPOINT)
    shelf.add("other", base="sdxl", content=b"sdxl")

    with pytest.raises(error, match=says):
        compose(models, model_id, adapter)


def test_private_adapter_of_another_key_is_not_chosen(shelf: Shelf, models: ModelRegistry) -> None:
    shelf.add("plain", ModelKind.CHECKPOINT, content=b"plain")
    shelf.add("private", owner=OWNER, is_public=False)

    assert compose(models.seen_by(OWNER), "plain").adapter_id == "private"
    with pytest.raises(InvalidParams, match="no motion adapter"):
        compose(models.seen_by(OTHER), "plain")
    with pytest.raises(InvalidParams, match="There is no motion adapter"):
        compose(models.seen_by(OTHER), "plain", "private")


def test_missing_file_is_noticed_before_a_job_is_queued(shelf: Shelf, models: ModelRegistry) -> None:
    record = shelf.add("whole", ModelKind.CHECKPOINT, has_motion=True)
    shelf.files.path(record.files["a.safetensors"]).unlink()

    with pytest.raises(CheckpointUnusable, match=r"a\.safetensors of the model 'whole' is gone"):
        compose(models, "whole")


def test_batches_hold_jobs_of_one_motion_adapter(database: Database) -> None:
    """Only jobs with the same networks run side by side."""
    jobs = JobStore(database)
    params = VideoParams(model_id="toon", prompt="a", motion_adapter="v2")
    for each in (params, replace(params, motion_adapter="v3"), params):
        jobs.submit(NewJob(params=each, request={}, cost=1.0))
    jobs.claim("worker-1")

    assert jobs.claim("worker-1", beside=params) is None
    assert jobs.claim("worker-2") is not None
    assert jobs.claim("worker-1", beside=params) is not None

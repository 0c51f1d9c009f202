"""Models stay loaded within a budget. Each "model" here is only a label; the engine's tests load real ones."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from promptreel.bootstrap import BUILT_IN_MODELS
from promptreel.errors import CheckpointUnusable, JobCancelled
from promptreel.generation.families.family import Loadable
from promptreel.generation.residency import Residency
from promptreel.models.composition import ModelSet
from promptreel.models.registry import ModelRegistry

MINUTE = 60


class Shelf:
    """Models of ten bytes each, and what was checked and loaded of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.card = ModelRegistry(built_in=BUILT_IN_MODELS, models_dir=folder).get("cutout")
        self.checked: list[str] = []
        self.loaded: list[str] = []
        self.before_load: Callable[[str], object] = lambda _name: None
        for name in "abcd":
            (folder / name).write_text(name)

    def get(self, name: str) -> ModelSet:
        return ModelSet(checkpoint=replace(self.card, model_id=name))

    def check(self, models: ModelSet) -> Loadable:
        name = models.checkpoint.model_id
        self.checked.append(name)
        if name == "d":
            raise CheckpointUnusable("d is damaged")
        return Loadable(10, (self.folder / name,), lambda: self._load(name))

    def _load(self, name: str) -> Any:
        self.before_load(name)
        self.loaded.append(name)
        return f"{name}: {(self.folder / name).read_text()}"


def loaded_in(residency: Residency) -> list[str]:
    return [models.name for models in residency.list_loaded()]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_least_recently_used_model_leaves_first(shelf: Shelf) -> None:
    residency = Residency(shelf.check, budget_bytes=20)
    for name in ("a", "b", "a", "c", "a", "b"):
        with residency.use(shelf.get(name)) as model:
            assert model == f"{name}: {name}"

    assert shelf.loaded == ["a", "b", "c", "b"]
    assert loaded_in(residency) == ["b", "a"]


def test_model_larger_than_the_budget_is_kept_alone(shelf: Shelf) -> None:
    residency = Residency(shelf.check, budget_bytes=5)
    for name in ("a", "a", "b"):
        with residency.use(shelf.get(name)):
            assert loaded_in(residency) == [name]

    assert shelf.loaded == ["a", "b"]


def test_models_are_checked_and_loaded_without_helper_threads(shelf: Shelf) -> None:
    """A request's thread must not compute with helpers of its own (ADR 9), and loading computes."""
    found: list[int] = []
    before_check = shelf.check

    def check(models: ModelSet) -> Loadable:
        found.append(torch.get_num_threads())
        return before_check(models)

    def use() -> int:
        torch.set_num_threads(2)
        with Residency(check, budget_bytes=10).use(shelf.get("a")):
            return torch.get_num_threads()

    shelf.before_load = lambda _name: found.append(torch.get_num_threads())
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(use).result(MINUTE) == 2

    assert found == [1, 1]


def test_files_are_checked_once_while_they_stay_the_same(shelf: Shelf) -> None:
    residency = Residency(shelf.check, budget_bytes=10)
    for name in ("a", "b", "a", "b"):
        with residency.use(shelf.get(name)):
            pass

    assert shelf.checked == ["a", "b"]
    assert shelf.loaded == ["a", "b", "a", "b"]


def test_replaced_file_is_noticed_even_while_its_model_is_used(shelf: Shelf) -> None:
    residency = Residency(shelf.check, budget_bytes=30)
    with residency.use(shelf.get("a")) as old:
        (shelf.folder / "new").write_text("other weights")
        (shelf.folder / "new").replace(shelf.folder / "a")
        with residency.use(shelf.get("a")) as new:
            assert (old, new) == ("a: a", "a: other weights")
    with residency.use(shelf.get("a")) as again:
        assert again is new

    assert shelf.checked == ["a", "a"]


def test_many_that_need_a_model_wait_for_one_load(shelf: Shelf) -> None:
    residency = Residency(shelf.check, budget_bytes=10)
    meet = threading.Barrier(4)

    def use() -> object:
        meet.wait(MINUTE)
        with residency.use(shelf.get("a")) as model:
            return model

    with ThreadPoolExecutor(4) as threads:
        models = [future.result(MINUTE) for future in [threads.submit(use) for _ in range(4)]]

    assert shelf.loaded == ["a"]
    assert all(model is models[0] for model in models)


def test_model_is_loaded_while_another_is_used_if_both_fit(shelf: Shelf) -> None:
    residency = Residency(shelf.check, budget_bytes=20)
    with residency.use(shelf.get("a")), residency.use(shelf.get("b")):
        assert set(loaded_in(residency)) == {"a", "b"}


def test_loaded_model_is_used_while_another_is_being_loaded(shelf: Shelf) -> None:
    residency = Residency(shelf.check, budget_bytes=20)
    with residency.use(shelf.get("a")):
        pass
    loading, go_on = threading.Event(), threading.Event()

    def hold(_name: str) -> None:
        loading.set()
        assert go_on.wait(MINUTE)

    shelf.before_load = hold
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(lambda: residency.use(shelf.get("b")).__enter__())
        assert loading.wait(MINUTE)
        with residency.use(shelf.get("a")) as model:
            assert model == "a: a"
        go_on.set()
        assert other.result(MINUTE) == "b: b"


def test_model_waits_for_room_until_the_others_are_idle(shelf: Shelf) -> None:
    residency = Residency(shelf.check, budget_bytes=10)
    waits = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        with residency.use(shelf.get("a")):
            other = threads.submit(lambda: residency.use(shelf.get("b"), waits.set).__enter__())
            assert waits.wait(MINUTE)
            assert shelf.loaded == ["a"]
        assert other.result(MINUTE) == "b: b"

    assert loaded_in(residency) == ["b"]


def test_request_that_is_cancelled_while_it_waits_leaves_the_line(shelf: Shelf) -> None:
    residency = Residency(shelf.check, budget_bytes=10)

    def cancel() -> None:
        raise JobCancelled

    with residency.use(shelf.get("a")), pytest.raises(JobCancelled), residency.use(shelf.get("b"), cancel):
        pass
    with residency.use(shelf.get("b")) as model:
        assert model == "b: b"


def test_model_that_cannot_be_loaded_costs_the_others_nothing(shelf: Shelf) -> None:
    residency = Residency(shelf.check, budget_bytes=10)
    with residency.use(shelf.get("a")):
        pass
    with pytest.raises(CheckpointUnusable), residency.use(shelf.get("d")):
        pass

    assert loaded_in(residency) == ["a"]

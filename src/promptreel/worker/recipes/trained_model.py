"""The model that a training makes: its row, and how it enters the registry with the job's last write."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptreel.jobs.import_params import ImportParams
from promptreel.jobs.job import TrainingJob
from promptreel.jobs.keys import Caller
from promptreel.jobs.training_params import TrainingParams, training_source
from promptreel.models.composition import compose
from promptreel.models.gate import check_checkpoint, hash_checkpoint
from promptreel.models.inspection import inspect
from promptreel.models.registry import ModelRegistry
from promptreel.models.store import ModelRecord, ModelStore
from promptreel.models.stored_files import StoredFiles, hash_file

SOURCE = "training"


@dataclass(frozen=True)
class TrainedModels:
    """Adds trained models to the registry."""

    models: ModelRegistry
    store: ModelStore
    files: StoredFiles

    def check_id(self, job: TrainingJob) -> None:
        """Raises InvalidParams if the model cannot have this id, and ModelNotFound if its owner does not see the base."""
        theirs = self.models.seen_by(Caller(api_key_id=job.api_key_id))
        theirs.check_id(job.params.model_id)
        theirs.get(job.params.base)

    def describe(self, job: TrainingJob, made: Path, *, step: int, is_complete: bool = True) -> ModelRecord:
        """The row of the model. `made`: a LoRA's file, or a checkpoint's folder. Raises CheckpointUnusable."""
        params = job.params
        paths = _files_of(made, params)
        found = inspect(
            paths, ImportParams(model_id=params.model_id, source=SOURCE, card=self._card(params)), reads_weights=True
        )
        trained = {**self._origin(params), "step": step, "is_complete": is_complete}
        return ModelRecord(
            id=params.model_id,
            kind=found.kind,
            family=found.family,
            base=found.base,
            card={**found.card, "trained": trained},
            files={name: hash_file(path) for name, path in paths.items()},
            source=training_source(job.id),
            api_key_id=job.api_key_id,
            is_public=params.is_public,
        )

    def adding(self, record: ModelRecord, made: Path) -> Callable[[Any], object]:
        """What stores the files and writes the row, in the transaction that ends the job. It may be called again if that
        transaction fails.
        """
        paths = {name: made if made.is_file() else made / name for name in record.files}

        def add(connection: Any) -> None:
            with self.files.adding():
                for name, path in paths.items():
                    linked = path.with_name(f".{path.name}.linked")
                    linked.unlink(missing_ok=True)
                    os.link(path, linked)
                    self.files.take(linked, record.files[name])
                self.store.write(connection, record, replace=True)

        return add

    def _card(self, params: TrainingParams) -> dict[str, Any]:
        base = self.models.get(params.base)
        card: dict[str, Any] = {
            "name": params.name or params.model_id,
            "description": f"Trained on {params.base} ({params.preset}), from {len(params.examples)} examples.",
            "trigger_words": [params.trigger] if params.trigger else [],
            "base_model": params.base,
            "motion_adapter": params.motion_adapter or base.motion_adapter,
        }
        return {name: value for name, value in card.items() if value}

    def _origin(self, params: TrainingParams) -> dict[str, Any]:
        """What the model was made from, so that it can be made again."""
        used = compose(self.models, params.base, params.motion_adapter)
        checked = check_checkpoint(used.checkpoint, used.adapter, used.vae)
        settings = {name: value for name, value in params.to_json().items() if name not in {"examples", "sample_prompts"}}
        examples = hashlib.sha256(json.dumps([[each.sha256, each.caption] for each in params.examples]).encode()).hexdigest()
        return {"base_sha256": hash_checkpoint(checked), "examples_sha256": examples, "settings": settings}


def _files_of(made: Path, params: TrainingParams) -> Mapping[str, Path]:
    """Where each file is, by its name in the model."""
    if made.is_file():
        return {f"{params.model_id}.safetensors": made}
    return {path.relative_to(made).as_posix(): path for path in sorted(made.rglob("*")) if path.is_file()}

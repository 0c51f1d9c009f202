"""The models that make a clip: a checkpoint, perhaps a motion adapter, and perhaps a VAE in place of the checkpoint's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from promptreel.errors import CheckpointUnusable, InvalidParams, ModelNotFound
from promptreel.jobs.params import LoraUse
from promptreel.models.families import FAMILIES
from promptreel.models.kinds import ModelKind
from promptreel.models.phrases import words_of
from promptreel.models.registry import ModelCard, ModelRegistry

_HOW_TO_ADD = "Import one with `promptreel models add`."
_HOW_TO_ADD_MOTION = "Import one, for example `promptreel models add guyoww/animatediff-motion-adapter-v1-5-3`."


@dataclass(frozen=True, kw_only=True)
class ModelSet:
    """`adapter`: None if the checkpoint has motion modules of its own. `vae`: None for the checkpoint's own."""

    checkpoint: ModelCard
    adapter: ModelCard | None = None
    vae: ModelCard | None = None

    @property
    def name(self) -> str:
        """The first part of the batch key of jobs that use these models, up to `|`."""
        return self.checkpoint.model_id if self.adapter is None else f"{self.checkpoint.model_id}+{self.adapter.model_id}"

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(card.model_id for card in (self.checkpoint, self.adapter, self.vae) if card is not None)

    @property
    def adapter_id(self) -> str | None:
        return None if self.adapter is None else self.adapter.model_id

    @property
    def told(self) -> dict[str, dict[str, Any]]:
        """What the cards say that changes a clip's bits, by model and field. The hash of the files does not cover it."""
        names = ["flow_shift", "low_noise_guidance", "native_width", "native_height", "beta_schedule"]
        if self.checkpoint.low_noise_guidance is not None:
            names.append("default_guidance")  # requests with this one get the other for low noise
        if self.adapter is None:
            return {self.checkpoint.model_id: _read(self.checkpoint, [*names, "max_frames"])}
        of_adapter = _read(self.adapter, ["beta_schedule", "max_frames"])
        return {self.checkpoint.model_id: _read(self.checkpoint, names), self.adapter.model_id: of_adapter}

    @property
    def defaults(self) -> dict[str, Any]:
        """Scheduler, steps and guidance: the adapter's, else the checkpoint's, else the family's if it ignores the APIs'
        defaults. What none of them names is missing.
        """
        found: dict[str, Any] = {}
        for card in filter(None, (self.adapter, self.checkpoint)):
            own = (card.default_scheduler, card.default_steps, card.default_guidance)
            for name, value in zip(("scheduler", "num_inference_steps", "guidance_scale"), own, strict=True):
                if value is not None:
                    found.setdefault(name, value)
        family = FAMILIES.get(self.checkpoint.family)
        if family is not None and family.ignores_api_defaults:
            found.setdefault("num_inference_steps", family.num_inference_steps)
            found.setdefault("guidance_scale", family.guidance_scale)
        return found


def _read(card: ModelCard, names: Sequence[str]) -> dict[str, Any]:
    """The fields that say something."""
    return {name: value for name in names if (value := getattr(card, name)) is not None}


def compose(models: ModelRegistry, model_id: str, motion_adapter: str | None = None) -> ModelSet:
    """The models that a request asks for: with its motion adapter, else the card's, else the checkpoint's own, else the only
    one that fits.

    Raises ModelNotFound; InvalidParams if the adapter does not fit, or must be named; CheckpointUnusable if files are gone.
    """
    checkpoint = models.get(model_id)
    if checkpoint.kind is not ModelKind.CHECKPOINT:
        raise ModelNotFound(_wrong_kind(checkpoint))
    named = motion_adapter or checkpoint.motion_adapter
    adapter = None
    if named is not None:
        adapter = _find(models, named, ModelKind.MOTION_ADAPTER, checkpoint)
    elif not checkpoint.has_motion:
        adapter = _only_adapter(models, checkpoint)
    vae = None if checkpoint.vae is None else _find(models, checkpoint.vae, ModelKind.VAE, checkpoint)
    for card in filter(None, (checkpoint, adapter, vae)):
        _check_files(models, card)
    return ModelSet(checkpoint=checkpoint, adapter=adapter, vae=vae)


def stand_for_base(models: ModelRegistry, model_id: str, loras: tuple[LoraUse, ...]) -> tuple[str, tuple[LoraUse, ...]]:
    """A checkpoint's id, and the LoRAs to use with it. A LoRA that names its base model stands for that model with itself."""
    try:
        card = models.get(model_id)
    except ModelNotFound:
        return model_id, loras
    if card.kind is not ModelKind.LORA or card.base_model is None:
        return model_id, loras
    is_named = any(use.model_id == card.model_id for use in loras)
    return card.base_model, loras if is_named else (LoraUse(card.model_id), *loras)


@dataclass(frozen=True, kw_only=True)
class AddOns:
    """What a request adds to its model."""

    loras: tuple[ModelCard, ...] = ()
    embeddings: tuple[ModelCard, ...] = ()


class AddOnUses(Protocol):
    """The add-ons that a request names, as VideoParams does."""

    @property
    def loras(self) -> Sequence[LoraUse]: ...

    @property
    def embeddings(self) -> Sequence[str]: ...


def find_add_ons(models: ModelRegistry, uses: AddOnUses, checkpoint: ModelCard) -> AddOns:
    """The LoRAs and embeddings that a request names. Raises InvalidParams and CheckpointUnusable."""
    embeddings = tuple(_find(models, each, ModelKind.EMBEDDING, checkpoint) for each in uses.embeddings)
    _check_words(embeddings)
    loras = tuple(_find(models, use.model_id, ModelKind.LORA, checkpoint) for use in uses.loras)
    for card in (*embeddings, *loras):
        _check_files(models, card)
    return AddOns(loras=loras, embeddings=embeddings)


def _check_words(embeddings: Sequence[ModelCard]) -> None:
    """Raises InvalidParams if two have the same word."""
    taken: dict[str, str] = {}
    for card in embeddings:
        for word in words_of(card):
            other = taken.setdefault(word.lower(), card.model_id)
            if other != card.model_id:
                why = f"{word!r} stands for {other!r} and for {card.model_id!r}: name only one, or import one with other words."
                raise InvalidParams({ModelKind.EMBEDDING.value: [why]})


def _wrong_kind(card: ModelCard) -> str:
    how = " Send its id as motion_adapter, with a checkpoint as the model." if card.kind is ModelKind.MOTION_ADAPTER else ""
    return f"{card.model_id!r} is {card.kind.with_article}, and makes no videos by itself.{how}"


def _find(models: ModelRegistry, model_id: str, kind: ModelKind, checkpoint: ModelCard) -> ModelCard:
    """The model of this kind, which must fit the checkpoint. Raises InvalidParams."""
    try:
        card = models.get(model_id)
    except ModelNotFound as error:
        names = ", ".join(each.model_id for each in _list_fitting(models, kind, checkpoint))
        how = _HOW_TO_ADD_MOTION if kind is ModelKind.MOTION_ADAPTER else _HOW_TO_ADD
        known = f"Known ones for {checkpoint.model_id!r}: {names}." if names else how
        raise InvalidParams({kind.value: [f"There is no {kind.label} {model_id[:100]!r}. {known}"]}) from error
    if card.kind is not kind:
        raise InvalidParams({kind.value: [f"{model_id!r} is {card.kind.with_article}, not {kind.with_article}."]})
    if not _fits(card, checkpoint):
        bases = f"{model_id!r} is for {_name_base(card)}, and {checkpoint.model_id!r} is {_name_base(checkpoint)}"
        raise InvalidParams({kind.value: [f"{bases}: take another one."]})
    return card


def _check_files(models: ModelRegistry, card: ModelCard) -> None:
    """Raises CheckpointUnusable."""
    if missing := models.missing_files(card):
        raise CheckpointUnusable(f"{missing[0]} of the model {card.model_id!r} is gone, or was changed: import it again.")


def _only_adapter(models: ModelRegistry, checkpoint: ModelCard) -> ModelCard:
    """Raises InvalidParams if there is none that fits, or several."""
    fitting = _list_fitting(models, ModelKind.MOTION_ADAPTER, checkpoint)
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        why = f"The model {checkpoint.model_id!r} has no motion adapter, so nothing would move. {_HOW_TO_ADD_MOTION}"
    else:
        names = ", ".join(card.model_id for card in fitting)
        why = f"The model {checkpoint.model_id!r} needs a motion adapter. Name one: {names}."
    raise InvalidParams({ModelKind.MOTION_ADAPTER.value: [why]})


def _list_fitting(models: ModelRegistry, kind: ModelKind, checkpoint: ModelCard) -> list[ModelCard]:
    return [card for card in models.list(tell=False) if card.kind is kind and _fits(card, checkpoint)]


def _fits(card: ModelCard, checkpoint: ModelCard) -> bool:
    """Whether both are of one family and base, as far as these are known."""
    return all(
        not ours or not theirs or ours == theirs for ours, theirs in zip(_made_for(card), _made_for(checkpoint), strict=True)
    )


def _made_for(card: ModelCard) -> tuple[str, str]:
    return card.family, card.base or ""


def _name_base(card: ModelCard) -> str:
    return card.base or card.family

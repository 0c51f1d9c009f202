"""Compares what the gate knows of networks without torch with the classes themselves, without memory for weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from promptreel.models.configs import Config

NETWORKS: dict[type[Any], Any] = {
    CLIPTextConfig: CLIPTextModel,
    CLIPVisionConfig: CLIPVisionModel,
    UMT5Config: UMT5EncoderModel,
}


def build_without_memory(class_of: Callable[..., Any], config: Config) -> Any:
    """`class_of`: the network's class, or transformers' class of its configuration."""
    with torch.device("meta"):
        built = class_of(**config.arguments)
        return NETWORKS[type(built)](built) if type(built) in NETWORKS else built


def shapes_of(network: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def check_defaults(kind: type[Config], class_of: Callable[..., Any], *, left_out: Collection[str] | None) -> None:
    """The config's fields have the class's defaults, and lack none of its parameters but `left_out`.

    None: any may be left out, because transformers' classes take what all its models take.
    """
    parameters = inspect.signature(class_of).parameters
    fields = {name: field for name, field in kind.model_fields.items() if not field.exclude}
    defaults = {name: parameters[name].default for name in fields}
    defaults = {name: tuple(value) if isinstance(value, list) else value for name, value in defaults.items()}

    assert {name: field.default for name, field in fields.items()} == defaults
    if left_out is not None:
        assert set(parameters) - set(fields) <= set(left_out)


def check_layouts(
    kind: type[Config],
    drawn: st.SearchStrategy[Any],
    *,
    lay_out: Callable[[Any], Mapping[str, tuple[int, ...]]],
    build: Callable[[Config], Any],
    run: Callable[[Config, Any], None],
    examples: int = 12,
) -> None:
    """Any config that passes builds a network of its layout that runs. `run`: without numbers; shapes that do not fit show
    themselves.
    """

    @settings(max_examples=examples)
    @given(drawn)
    def check(fields: dict[str, Any]) -> None:
        try:
            config = kind(**fields)
        except ValidationError:
            return
        network = build(config)
        assert lay_out(config) == shapes_of(network)
        with torch.device("meta"):
            run(config, network)

    check()

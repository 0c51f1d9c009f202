"""Networks that take turns on a device that cannot hold all of them: each is there only while it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


class Turns:
    """A model's networks by name, on the CPU at first. Not for several threads: one computes on such a device.

    `together`: whether all fit at once. Otherwise one is there at a time, and its weights stay on the CPU besides, so that
    it can leave without being copied back.
    """

    def __init__(self, networks: Mapping[str, Any], device: str, *, together: bool) -> None:
        self._networks = networks
        self._device = device
        self.together = together
        self._kept: dict[str, dict[str, Tensor]] = {}
        self._present: str | None = None
        if together:
            for network in networks.values():
                network.to(device)

    def take(self, name: str) -> Any:
        """The network, on the device."""
        if not self.together and self._present != name:
            self._leave()
            self._kept[name] = {key: tensor.data for key, tensor in _tensors(self._networks[name])}
            self._present = name
            self._networks[name].to(self._device)
        return self._networks[name]

    def _leave(self) -> None:
        if self._present is not None:
            kept = self._kept.pop(self._present)
            for key, tensor in _tensors(self._networks[self._present]):
                tensor.data = kept[key]
            self._present = None


def _tensors(network: Any) -> list[tuple[str, Tensor]]:
    return [*network.named_parameters(), *network.named_buffers()]


def count_bytes(network: Any) -> int:
    """Of its weights and buffers."""
    return sum(tensor.nbytes for _, tensor in _tensors(network))

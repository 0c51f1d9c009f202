"""Networks that take turns on a device that cannot hold all of them: each is there only while it is used."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.nn import Parameter


class Turns:
    """A model's networks by name, on the CPU at first. Not thread-safe: only one thread computes on such a device.

    `together`: whether all fit at once. Otherwise one is there at a time, and its weights stay on the CPU besides, so that
    it can leave without being copied back.
    """

    def __init__(self, networks: Mapping[str, Any], device: str, *, together: bool) -> None:
        self.together = together
        self._networks = dict(networks)
        self._place = _Place(device)
        self._settle()

    def take(self, name: str) -> Any:
        """The network, on the device."""
        network = self._networks[name]
        if not self.together:
            self._place.bring(network)
        return network

    def find(self, *names: str) -> dict[str, Any]:
        """Those of the networks that there are, where they wait for their turns: to be copied."""
        if not self.together:
            self._place.clear()
        return {name: self._networks[name] for name in names if name in self._networks}

    def with_changed(self, networks: Mapping[str, Any]) -> Turns:
        """The same networks but for these. Both take turns on the same device."""
        changed = copy.copy(self)
        changed._networks = self._networks | dict(networks)
        changed._settle()
        return changed

    def _settle(self) -> None:
        if self.together:
            for network in self._networks.values():
                network.to(self._place.device)


class _Place:
    """A device that one network at a time is on."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._present: Any = None
        self._put_back: list[Callable[[], None]] = []

    def bring(self, network: Any) -> None:
        if self._present is not network:
            self.clear()
            self._put_back = list(_keep(network))
            network.to(self.device)
            self._present = network

    def clear(self) -> None:
        for put_back in self._put_back:
            put_back()
        self._put_back = []
        self._present = None


def _keep(network: Any) -> Iterator[Callable[[], None]]:
    """What brings each weight and buffer back as it is now."""

    def keep(held: dict[str, Any], name: str, tensor: Any) -> Callable[[], None]:
        return lambda: held.__setitem__(name, tensor)

    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                yield keep(module._parameters, name, Parameter(weight.data, requires_grad=False))
        for name, buffer in module._buffers.items():
            yield keep(module._buffers, name, buffer)


def count_bytes(network: Any) -> int:
    """Of its weights and buffers."""
    tensors: list[Tensor] = [*network.parameters(), *network.buffers()]
    return sum(tensor.nbytes for tensor in tensors)

"""Networks that take turns on a device that cannot hold all of them: each is there only while it is used."""

from __future__ import annotations

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
        self._networks = networks
        self._device = device
        self._present: str | None = None
        self._put_back: list[Callable[[], None]] = []
        if together:
            for network in networks.values():
                network.to(device)

    def take(self, name: str) -> Any:
        """The network, on the device."""
        network = self._networks[name]
        if not self.together and self._present != name:
            for put_back in self._put_back:
                put_back()
            self._present = None  # until it has arrived
            self._put_back = list(_keep(network))
            network.to(self._device)
            self._present = name
        return network


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

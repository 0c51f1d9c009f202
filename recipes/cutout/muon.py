"""The Muon optimiser, for matrices and convolution kernels.

Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks") orthogonalises the momentum of each
weight by a few Newton-Schulz iterations. PyTorch's own version takes matrices only; convolutions are most of what we train,
so theirs are flattened to [out, in * height * width] here. The update is scaled to the size of an AdamW step (Liu et al. 2025,
"Muon is Scalable for LLM Training", equation 4), so that both optimisers share one learning rate.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum whose step is the nearest (semi-)orthogonal matrix; decoupled weight decay."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # noqa: ARG002 - no closures here
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step_one(weight, group)

    def _step_one(self, weight: nn.Parameter, group: dict[str, Any]) -> None:
        assert weight.grad is not None
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
        direction = weight.grad.lerp(momentum, group["momentum"]).flatten(1)
        update = orthogonalise(direction) * (0.2 * max(direction.shape) ** 0.5)
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(update.reshape(weight.shape), alpha=-group["lr"])


def orthogonalise(matrix: Tensor, iterations: int = 5) -> Tensor:
    """An approximation of U V^T, for the singular value decomposition U S V^T of `matrix` [m, n].

    The quintic Newton-Schulz iteration with Jordan's coefficients, in bf16.
    """
    x = matrix.bfloat16()
    wide = x if x.shape[0] <= x.shape[1] else x.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(iterations):
        gram = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
    return (wide if x.shape[0] <= x.shape[1] else wide.T).to(matrix.dtype)


def optimizers_for(modules: Iterable[nn.Module], lr: float, weight_decay: float = 0.01) -> list[torch.optim.Optimizer]:
    """Muon for matrices and kernels, AdamW for embeddings, norms and biases."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in modules:
        for child in module.modules():
            for weight in child.parameters(recurse=False):
                if weight.requires_grad:
                    is_matrix = weight.ndim >= 2 and not isinstance(child, nn.Embedding)
                    (matrices if is_matrix else others).append(weight)
    return [
        Muon(matrices, lr=lr, weight_decay=weight_decay),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]

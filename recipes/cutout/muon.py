"""The Muon optimizer, for matrices and convolution kernels.

Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks") orthogonalizes the momentum of each
weight by a few Newton-Schulz iterations. PyTorch's own version takes only matrices, but most of our weights are convolution
kernels. Here they are flattened to [out, in * height * width]. The update is scaled to the size of an AdamW step (Liu et al.
2025, "Muon is Scalable for LLM Training", equation 4), so both optimizers use the same learning rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

WEIGHT_DECAY = 0.01
ITERATIONS = 5  # Newton-Schulz iterations a step


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum and decoupled weight decay. Each step is made (semi-)orthogonal."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": WEIGHT_DECAY})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # noqa: ARG002 - no closures here
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            directions = [self._direction(weight, group["momentum"]) for weight in weights]
            for weight, update in zip(weights, orthogonalize(directions), strict=True):
                scale = 0.2 * max(update.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update.reshape(weight.shape), alpha=-group["lr"] * scale)

    def _direction(self, weight: nn.Parameter, momentum: float) -> Tensor:
        """A weight's Nesterov momentum, [out, in] or [out, in * height * width]."""
        assert weight.grad is not None
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        average = state["momentum"].lerp_(weight.grad, 1 - momentum)
        return weight.grad.lerp(average, momentum).flatten(1)


def orthogonalize(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Approximates U V^T for each matrix U S V^T.

    Uses the quintic Newton-Schulz iteration x <- (a + b g + c g^2) x, where g = x x^T, with Jordan's coefficients. All factors
    are polynomials of the first g, so they commute. They are multiplied in the smaller dimension, for all matrices of one size
    together, and each matrix takes part in two products instead of ten. This needs float32: if rounding makes an eigenvalue of
    g negative, it grows twelvefold in each iteration. bf16's rounding errors would become too large.
    """
    wide = [matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T for matrix in matrices]
    unit = [matrix / (matrix.norm() + 1e-7) for matrix in wide]
    results: list[Tensor] = list(matrices)
    for size in {len(matrix) for matrix in wide}:
        members = [i for i, matrix in enumerate(wide) if len(matrix) == size]
        products = _newton_schulz(torch.stack([unit[i] @ unit[i].T for i in members]))
        for i, product in zip(members, products, strict=True):
            result = product @ unit[i]
            results[i] = result if wide[i] is matrices[i] else result.T
    return results


def _newton_schulz(grams: Tensor) -> Tensor:
    """The product of the iteration's factors, [N, m, m]. `grams` holds x x^T of each matrix, [N, m, m]."""
    identity = torch.eye(grams.shape[1], device=grams.device).expand_as(grams)
    products = identity
    for _ in range(ITERATIONS):
        factors = torch.baddbmm(grams, grams, grams, beta=-4.7750, alpha=2.0315) + 3.4445 * identity
        products = torch.bmm(factors, products)
        grams = torch.bmm(torch.bmm(factors, grams), factors)
    return products


def optimizers_for(modules: Iterable[nn.Module], lr: float) -> list[torch.optim.Optimizer]:
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
        Muon(matrices, lr=lr),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]

"""The Muon optimiser, for matrices and convolution kernels.

Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks") orthogonalises the momentum of each
weight by a few Newton-Schulz iterations. PyTorch's own version takes matrices only; convolutions are most of what we train,
so theirs are flattened to [out, in * height * width] here. The update is scaled to the size of an AdamW step (Liu et al. 2025,
"Muon is Scalable for LLM Training", equation 4), so that both optimisers share one learning rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum whose step is the nearest (semi-)orthogonal matrix; decoupled weight decay."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # noqa: ARG002 - no closures here
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            directions = [self._direction(weight, group["momentum"]) for weight in weights]
            for weight, update in zip(weights, orthogonalise(directions), strict=True):
                scale = 0.2 * max(update.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update.reshape(weight.shape), alpha=-group["lr"] * scale)

    def _direction(self, weight: nn.Parameter, momentum: float) -> Tensor:
        """Nesterov's momentum of a weight, [out, in] or [out, in * height * width]."""
        assert weight.grad is not None
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        average = state["momentum"].lerp_(weight.grad, 1 - momentum)
        return weight.grad.lerp(average, momentum).flatten(1)


def orthogonalise(matrices: Sequence[Tensor], iterations: int = 5) -> list[Tensor]:
    """For each matrix U S V^T an approximation of U V^T.

    The quintic Newton-Schulz iteration x <- (a + b g + c g^2) x, g = x x^T, with Jordan's coefficients. All factors are
    polynomials of the first g and commute: they are multiplied together in the smaller dimension, for all matrices of one such
    size at once, and a matrix itself is touched twice instead of ten times. In float32: an eigenvalue of g that rounding makes
    negative grows twelvefold in each iteration, which float32 allows and bf16 does not.
    """
    wide = [matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T for matrix in matrices]
    unit = [matrix / (matrix.norm() + 1e-7) for matrix in wide]
    results: list[Tensor] = list(matrices)
    for size in {len(matrix) for matrix in wide}:
        members = [i for i, matrix in enumerate(wide) if len(matrix) == size]
        products = _newton_schulz(torch.stack([unit[i] @ unit[i].T for i in members]), iterations)
        for i, product in zip(members, products, strict=True):
            result = product @ unit[i]
            results[i] = result if wide[i] is matrices[i] else result.T
    return results


def _newton_schulz(grams: Tensor, iterations: int) -> Tensor:
    """The product of the iteration's factors, [N, m, m] from x x^T of each matrix."""
    identity = torch.eye(grams.shape[1], device=grams.device).expand_as(grams)
    products = identity
    for _ in range(iterations):
        factors = torch.baddbmm(grams, grams, grams, beta=-4.7750, alpha=2.0315) + 3.4445 * identity
        products = torch.bmm(factors, products)
        grams = torch.bmm(torch.bmm(factors, grams), factors)
    return products


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

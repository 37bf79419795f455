"""Muon for the matrices inside the layers, AdamW for all else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

# Coefficients of the quintic Newton–Schulz iteration in Muon (Jordan et al., 2024).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5
MOMENTUM = 0.95


def orthogonalise(matrices: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: [n, rows, columns] -> same, in ``dtype``."""
    x: Tensor = matrices.to(dtype)
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    is_tall = x.shape[-2] > x.shape[-1]
    x = x.mT if is_tall else x
    a, b, c = NEWTON_SCHULZ
    for _ in range(NUM_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    result: Tensor = x.mT if is_tall else x
    return result


class MuonAdam:
    """Both optimizers behind one ``step``."""

    def __init__(self, network: nn.Module, muon_rate: float, adam_rate: float) -> None:
        self.muon_rate, self.adam_rate = muon_rate, adam_rate
        self.weight_decay = 0.05
        groups: dict[str, list[nn.Parameter]] = defaultdict(list)
        rest: list[dict[str, Any]] = []
        for name, weight in network.named_parameters():
            if ".layers." in name and weight.dim() == 2:
                groups[name.split(".layers.")[1].partition(".")[2]].append(weight)
            else:
                # Rows of the embedding are seldom used: they may move faster.
                scale = 3.0 if "embed_tokens" in name else 1.0
                rest.append({"params": [weight], "scale": scale})
        self._groups = list(groups.values())
        self._momenta = [torch.zeros_like(torch.stack(list(group))) for group in self._groups]
        self._adam = torch.optim.AdamW(
            rest, lr=adam_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """One step with both rates scaled by ``factor``; clears the gradients."""
        for group, momentum in zip(self._groups, self._momenta, strict=True):
            gradient = torch.stack([_gradient(weight) for weight in group])
            momentum.mul_(MOMENTUM).add_(gradient)
            update = orthogonalise(gradient + MOMENTUM * momentum).float()
            # Makes the update's size that of an Adam step (Moonlight, arXiv 2502.16982).
            size = 0.2 * max(update.shape[-2:]) ** 0.5
            rate = self.muon_rate * factor
            for weight, delta in zip(group, update, strict=True):
                weight.mul_(1 - rate * self.weight_decay).add_(delta, alpha=-rate * size)
                weight.grad = None
        for options in self._adam.param_groups:
            options["lr"] = self.adam_rate * factor * options["scale"]
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """What :meth:`load` takes, to go on where this one stopped."""
        return {"momenta": self._momenta, "adam": self._adam.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        _copy(self._momenta, state["momenta"])
        self._adam.load_state_dict(state["adam"])


def _copy(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


def _gradient(weight: nn.Parameter) -> Tensor:
    assert weight.grad is not None
    return weight.grad

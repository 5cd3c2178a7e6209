"""Learning rate of a step, and which parameters get how much of it. Pure functions.

The schedule is computed from the step alone, so a resume has no schedule state to restore or to lose.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a cosine from `peak` to `floor`: once, or restarted in periods of growing length.

    Lengths in optimizer steps. `first_period` None is a single cosine over all steps; otherwise the restarts of SGDR
    (arXiv:1608.03983): periods of first_period, first_period * factor, first_period * factor^2 ...
    """

    peak: float
    floor: float
    total_steps: int
    warmup_steps: int = 0
    first_period: int | None = None
    factor: int = 1

    def __call__(self, step: int) -> float:
        """Learning rate of the update numbered `step`, from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        start, length = self._period(step - self.warmup_steps)
        phase = (step - self.warmup_steps - start) / length
        return self.floor + (self.peak - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, phase)))

    def _period(self, step: int) -> tuple[int, int]:
        if self.first_period is None:
            return 0, max(1, self.total_steps - self.warmup_steps)
        start, length = 0, self.first_period
        while step >= start + length:
            start, length = start + length, length * self.factor
        return start, length


def parameter_groups(network: nn.Module, *, weight_decay: float, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """AdamW groups with `lr_scale`. Biases, norms, tokens and positions have no weight decay, as in MAE.

    With layer_decay d < 1 the lr of encoder block i of n is scaled by d^(n - i), that of the embedding by d^(n + 1),
    and the head keeps all of it: layers near the pixels need to change least (arXiv:2106.08254, section 3.2).
    """
    depth = 1 + max([_layer_of(name) for name, _ in network.named_parameters()], default=0)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = 0.0 if parameter.ndim == 1 or name.endswith("_token") else weight_decay
        in_encoder = name.startswith("encoder.") and not name.startswith("encoder.norm.")
        scale = layer_decay ** (depth - _layer_of(name)) if in_encoder else 1.0
        group = groups.setdefault((decay, scale), {"params": [], "weight_decay": decay, "lr_scale": scale})
        group["params"].append(parameter)
    return list(groups.values())


def _layer_of(name: str) -> int:
    """0 for what comes before the encoder's blocks, i + 1 for block i."""
    match = re.match(r"encoder\.blocks\.(\d+)\.", name)
    return int(match[1]) + 1 if match else 0

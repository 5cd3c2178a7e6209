"""An exponential moving average of the weights, for evaluation and export."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from jetmae.engine.backend import Backend
from jetmae.runtime.world import World


class MovingAverage:
    """Float32 averages of the piece of each trainable parameter that lies on this rank, so it works under ZeRO 3."""

    def __init__(self, backend: Backend, world: World, decay: float):
        self.backend, self.world, self.decay = backend, world, decay
        self.averages = {name: part.float().clone() for name, part in self._parts().items()}

    def update(self) -> None:
        """Move towards the present weights by 1 - decay; call after every optimizer step."""
        for name, part in self._parts().items():
            self.averages[name].lerp_(part.float(), 1 - self.decay)

    @contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """The network computes with the averages inside this context."""
        parts = self._parts()
        kept = {name: part.clone() for name, part in parts.items()}
        for name, part in parts.items():
            part.copy_(self.averages[name])
        try:
            yield
        finally:
            for name, part in parts.items():
                part.copy_(kept[name])

    def save(self, folder: Path) -> None:
        save_file({name: average.cpu() for name, average in self.averages.items()}, self._file(folder))

    def load(self, folder: Path) -> None:
        for name, average in load_file(self._file(folder)).items():
            self.averages[name].copy_(average)

    def _parts(self) -> dict[str, torch.Tensor]:
        return {
            name: self.backend.local_part(parameter)
            for name, parameter in self.backend.parameters.items()
            if parameter.requires_grad
        }

    def _file(self, folder: Path) -> Path:
        return folder / f"average-rank-{self.world.rank:05d}.safetensors"

"""An exponential moving average of the weights, for evaluation and export."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from jetmae.checkpoint.pieces import Piece
from jetmae.engine.backend import Backend


class MovingAverage:
    """Float32 averages of the piece of each trainable parameter that lies on this rank, so it works under ZeRO 3."""

    def __init__(self, backend: Backend, decay: float):
        self.backend, self.decay = backend, decay
        self.averages = {name: part.float().clone() for name, part in self._parts().items()}

    def update(self, step: int) -> None:
        """Move towards the present weights by 1 - decay; call after every optimizer step, which count from 1.

        Early steps decay faster, as in TensorFlow's ExponentialMovingAverage with num_updates. Else a short training
        would evaluate mostly the weights that it began with, be they random or pretrained.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, part in self._parts().items():
            self.averages[name].lerp_(part.float(), 1 - decay)

    @contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """The network computes with the averages inside this context. Collective."""
        kept = {name: part.clone() for name, part in self._parts().items()}
        self._put(self.averages)
        try:
            yield
        finally:
            self._put(kept)

    def _put(self, values: dict[str, torch.Tensor]) -> None:
        for name, part in self._parts().items():
            part.copy_(values[name])
        self.backend.parts_changed()

    def pieces(self) -> list[Piece]:
        """The averages that lie on this rank; writing into them restores a state."""
        parts = self.backend.local_parts()
        return [Piece(f"average/{name}", parts[name].start, average, parts[name].replicated)
                for name, average in self.averages.items()]  # fmt: skip

    def _parts(self) -> dict[str, torch.Tensor]:
        return {name: piece.values for name, piece in self.backend.local_parts().items()}

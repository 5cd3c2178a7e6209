"""The training state that lies on one rank: pieces of flattened tensors, and the file they travel in.

A file is in the safetensors format: keys are names of pieces, and the metadata say where in its whole tensor each piece
begins. It is laid out in host memory once, and every save copies into it.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from jetmae.errors import JetmaeError, PassingFault
from jetmae.files import await_listed

STARTS = "starts"


@dataclass(frozen=True)
class Piece:
    """A contiguous part of one flattened float32 tensor of the training state.

    `values` (n,) is a view: writing into it changes the state. `replicated` pieces are the same on every rank.
    """

    name: str
    start: int
    values: Tensor
    replicated: bool = False

    @property
    def stop(self) -> int:
        return self.start + len(self.values)

    def share(self, rank: int, ranks: int) -> "Piece":
        """What this rank writes of it: of a replicated piece, one part among `ranks` equal ones."""
        if not self.replicated:
            return self
        first, last = (len(self.values) * number // ranks for number in (rank, rank + 1))
        return Piece(self.name, self.start + first, self.values[first:last])


class StateImage:
    """A safetensors file of some pieces in host memory."""

    def __init__(self, pieces: Iterable[Piece], device: torch.device):
        """The memory is touched and, for a GPU's copies, pinned here and never again."""
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.pieces = [piece for piece in pieces if len(piece.values)]
        header = _header(self.pieces)
        size = len(header) + sum(piece.values.nbytes for piece in self.pieces)
        self._bytes = torch.zeros(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._bytes[: len(header)] = torch.frombuffer(bytearray(header), dtype=torch.uint8)
        lengths = [piece.values.nbytes for piece in self.pieces]
        parts = self._bytes[len(header) :].split(lengths) if lengths else []
        self._targets = [part.view(torch.float32) for part in parts]

    def __len__(self) -> int:
        return len(self._bytes)

    def wait_for_updates(self) -> None:
        """Note the place in the device's queue that `copy` has to wait for: the updates that were asked for so far."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self.device))

    def copy(self) -> None:
        """Take the values; on any thread, while the device computes what does not change them."""
        with torch.cuda.stream(self._stream):
            for piece, target in zip(self.pieces, self._targets, strict=True):
                target.copy_(piece.values, non_blocking=True)
        if self._stream is not None:
            self._stream.synchronize()

    def check_finite(self) -> None:
        """Of the values that were copied.

        Raises:
            JetmaeError: one is not finite; names its tensor.
        """
        for piece, target in zip(self.pieces, self._targets, strict=True):
            if not np.isfinite(target.numpy()).all():
                raise JetmaeError(f"{piece.name} has values that are not finite: nothing is committed; reduce optim.lr")

    @property
    def content(self) -> memoryview:
        return memoryview(self._bytes.numpy().data)


def read_pieces(files: Sequence[Path], wanted: Iterable[Piece]) -> None:
    """Fill the wanted pieces from files that together hold the whole state.

    It reads no more files than it needs, and waits for those that are not yet visible here.

    Raises:
        NotVisible: a file does not appear.
        PassingFault: a file cannot be read, although its hash has just been right.
        JetmaeError: the files lack a part of a wanted piece.
    """
    missing = {piece.name: [piece] for piece in wanted if len(piece.values)}
    for path in files:
        if missing:
            await_listed(path)
            missing = _read_file(path, missing)
    if missing:
        name, pieces = next(iter(missing.items()))
        place = f"from {pieces[0].start} to {pieces[0].stop}"
        raise JetmaeError(f"{files[0].parent} lacks {name} {place}: is it of another network?")


def _read_file(path: Path, missing: dict[str, list[Piece]]) -> dict[str, list[Piece]]:
    """Fill what this file has; returns what is missing still."""
    still: dict[str, list[Piece]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            starts = json.loads(file.metadata()[STARTS])
            for name, pieces in missing.items():
                rest = pieces
                if name in starts:
                    stored = file.get_slice(name)
                    rest = [part for piece in pieces for part in _fill(piece, stored, starts[name])]
                if rest:
                    still[name] = rest
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise PassingFault(f"{path} cannot be read ({error}): start again, or mend the storage") from error
    return still


def _fill(piece: Piece, stored: Any, start: int) -> list[Piece]:
    """Copy where the stored piece, which begins at `start`, overlaps; returns the parts of `piece` that it does not."""
    first, last = max(piece.start, start), min(piece.stop, start + stored.get_shape()[0])
    if first >= last:
        return [piece]
    piece.values[first - piece.start : last - piece.start].copy_(stored[first - start : last - start])
    before = Piece(piece.name, piece.start, piece.values[: first - piece.start])
    after = Piece(piece.name, last, piece.values[last - piece.start :])
    return [part for part in (before, after) if len(part.values)]


def _header(pieces: list[Piece]) -> bytes:
    """As the safetensors format wants it: its length in 8 bytes, then JSON, padded so that the data are aligned."""
    entries: dict[str, object] = {"__metadata__": {STARTS: json.dumps({piece.name: piece.start for piece in pieces})}}
    offset = 0
    for piece in pieces:
        end = offset + piece.values.nbytes
        entries[piece.name] = {"dtype": "F32", "shape": [len(piece.values)], "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text

"""Which patches of each jet an encoder reads.

Jets have different numbers of patches worth reading, and a batch is a rectangle. Shorter jets are filled up with other
patches; attention and pooling leave those out, so that a jet's result does not depend on its neighbours in the batch.

Shapes: B jets, L patches, K tokens.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

STEP_OF_SIZES = 16  # tokens: few different sizes, for the sake of memory that is used again


@dataclass(frozen=True)
class Tokens:
    """The ids of the patches that are read (B, K), and which of them are real; None: all are."""

    kept_BK: Int[Tensor, "B K"]
    real_BK: Bool[Tensor, "B K"] | None = None

    def attention_mask(self) -> Bool[Tensor, "B 1 1 keys"] | None:
        """(B, 1, 1, 1 + K), True where attention may look: the cls token and real tokens."""
        if self.real_BK is None:
            return None
        with_cls_BK = torch.cat([torch.ones_like(self.real_BK[:, :1]), self.real_BK], dim=1)
        return with_cls_BK[:, None, None]

    def weights(self) -> Float[Tensor, "B K"]:
        """1 for a real token, 0 for filling."""
        return (
            torch.ones(self.kept_BK.shape, device=self.kept_BK.device) if self.real_BK is None else self.real_BK.float()
        )


def tokens_of(wanted_BL: Bool[Tensor, "B L"]) -> Tokens:
    """Tokens of the wanted patches, row by row; a jet with none has filling alone."""
    longest = int(wanted_BL.sum(dim=1).max())
    size = min(wanted_BL.shape[1], max(1, -(-longest // STEP_OF_SIZES)) * STEP_OF_SIZES)
    kept_BK = (~wanted_BL).to(torch.uint8).argsort(dim=1, stable=True)[:, :size]
    return Tokens(kept_BK, wanted_BL.gather(1, kept_BK))


def distance_from_centre(rows: int, columns: int) -> Float[Tensor, " L"]:
    """Of each patch's centre from the image's centre, in patches."""
    y = torch.arange(rows) - (rows - 1) / 2
    x = torch.arange(columns) - (columns - 1) / 2
    return torch.hypot(y[:, None], x[None]).flatten()

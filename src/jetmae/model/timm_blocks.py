"""The one importer of timm: its transformer Block, with stochastic depth whose noise comes from outside.

timm imports torchvision, of which nothing here is used. The torchvision wheel built for CUDA torch registers two
operators of its compiled library when imported; beside a CPU-only torch that library does not load, and the import dies
with "operator torchvision::nms does not exist". Declaring the two operators lets the import pass. This happens only on
that very error, so a matching pair of wheels is left alone.
"""

import sys
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

_torchvision_operators: torch.library.Library | None = None
FLASH_LIMIT = 256  # the widest head that flash attention knows
LAYER_NORM_EPS = 1e-6  # as in the seed architecture and facebookresearch/mae


def _import_block() -> type[nn.Module]:
    try:
        from timm.models.vision_transformer import Block
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        _declare_torchvision_operators()
        from timm.models.vision_transformer import Block
    return Block


def _declare_torchvision_operators() -> None:
    global _torchvision_operators  # noqa: PLW0603  the declaration lives as long as this object
    for name in [name for name in sys.modules if name.partition(".")[0] in ("torchvision", "timm")]:
        del sys.modules[name]
    _torchvision_operators = operators = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def compile_blocks(network: nn.Module) -> None:
    """Compile each transformer block of a network by itself: they are alike, so the compiler has one to look at."""
    for module in network.modules():
        if isinstance(module, TransformerBlock):
            module.compile(dynamic=False)


TimmBlock = _import_block()


class DropPath(nn.Module):
    """Stochastic depth (arXiv:1603.09382): drop a residual branch for a whole sample, scale the others by 1/keep.

    The uniform noise of each sample is set from outside before the forward pass, so that it can be a function of the
    sample's position in the global batch instead of a generator's history.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.noise_B: Tensor | None = None

    def forward(self, x_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        if not self.training or self.noise_B is None:
            return x_BLD
        kept_B = (self.noise_B >= self.rate).to(x_BLD.dtype) / (1.0 - self.rate)
        return x_BLD * kept_B[:, None, None]

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


class TransformerBlock(TimmBlock):  # type: ignore[misc,valid-type]  # the class is found at run time
    """timm's Block, which writes attention out where that is faster than torch's own kernels."""

    def forward(
        self, x_BLD: Float[Tensor, "B L D"], attn_mask: Bool[Tensor, "B 1 1 L"] | None = None
    ) -> Float[Tensor, "B L D"]:
        """`attn_mask` is True where attention may look."""
        self.attn.fused_attn = attn_mask is not None or not is_written_out(x_BLD, self.attn.head_dim)
        result_BLD: Tensor = super().forward(x_BLD, attn_mask=attn_mask)
        return result_BLD


def is_written_out(x: Float[Tensor, "*any"], head_dim: int) -> bool:
    """Whether matrix product, softmax, matrix product are faster than one kernel for them.

    Flash attention ends at heads of 256, and the seed has one head of 768 or 512. What torch chooses then takes two
    to four times as long on an H100 (benchmarks/results/gpu_h100_2026-11-26.md).
    """
    return x.is_cuda and head_dim > FLASH_LIMIT


def attend(
    query: Float[Tensor, "B heads M D"],
    key: Float[Tensor, "B heads L D"],
    value: Float[Tensor, "B heads L D"],
    mask: Bool[Tensor, "B 1 1 L"] | None,
) -> Float[Tensor, "B heads M D"]:
    """softmax(q k / sqrt(d)) v for (B, heads, L, d); `mask` is True where attention may look."""
    if mask is None and is_written_out(query, query.shape[-1]):
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        mixed: Tensor = scores.softmax(dim=-1) @ value
        return mixed
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def transformer_block(
    dim: int, heads: int, mlp_ratio: float, drop_path: float = 0.0, *, kind: type[nn.Module] = TransformerBlock
) -> nn.Module:
    """timm's pre-norm Block with the seed's settings. `drop_path` is the probability to drop each of its branches."""
    block = kind(dim, heads, mlp_ratio, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=LAYER_NORM_EPS))
    if drop_path > 0:
        block.drop_path1, block.drop_path2 = DropPath(drop_path), DropPath(drop_path)
    return block


class QueryKeyValue(nn.Linear):
    """timm's `qkv` of an attention, which can leave out queries that nobody asks for.

    It is a module because ZeRO stage 3 brings a weight to the ranks when its module is called.
    """

    def forward(self, tokens_BLD: Float[Tensor, "B L D"], first: int | None = None) -> Any:
        """(B, L, 3 D), as a linear layer; given `first`, queries (B, L - first, D), and keys and values (B, L, 2 D)."""
        if first is None:
            return super().forward(tokens_BLD)
        dim = self.in_features
        query_BMD = F.linear(tokens_BLD[:, first:], self.weight[:dim], self.bias[:dim])
        return query_BMD, F.linear(tokens_BLD, self.weight[dim:], self.bias[dim:])


class LastBlock(TransformerBlock):
    """The same weights under the same names. It can leave out tokens that nobody looks at."""

    def forward(
        self,
        x_BLD: Float[Tensor, "B L D"],
        attn_mask: Bool[Tensor, "B 1 1 L"] | None = None,
        first: int | None = None,
    ) -> Float[Tensor, "B M D"]:
        """The tokens from `first` on: the same numbers as those of the whole block.

        The others are keys and values only: their queries, their share of attention, their MLP and their norms are left
        out.
        """
        if first is None:
            return super().forward(x_BLD, attn_mask)
        query_BMD, key_value_BLE = self.attn.qkv(self.norm1(x_BLD), first)
        parts = (query_BMD, *key_value_BLE.chunk(2, dim=2))
        query, key, value = (part.unflatten(2, (self.attn.num_heads, -1)).transpose(1, 2) for part in parts)
        mixed_BMD = attend(query, key, value, attn_mask).transpose(1, 2).flatten(2)
        tokens_BMD = x_BLD[:, first:] + self.attn.proj(mixed_BMD)
        result_BMD: Tensor = tokens_BMD + self.mlp(self.norm2(tokens_BMD))
        return result_BMD


def last_block(dim: int, heads: int, mlp_ratio: float) -> nn.Module:
    """The last block of a decoder, behind which nobody looks at the visible tokens."""
    block: Any = transformer_block(dim, heads, mlp_ratio, kind=LastBlock)
    given = block.attn.qkv
    block.attn.qkv = QueryKeyValue(dim, 3 * dim, device="meta")  # without weights of its own, and no random numbers
    block.attn.qkv.weight, block.attn.qkv.bias = given.weight, given.bias
    whole: nn.Module = block
    return whole

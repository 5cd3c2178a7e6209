"""The peer of step.py: a masked auto-encoder trained in the usual way, in plain PyTorch.

A convolution embeds all patches, an argsort of noise hides most of them, the decoder puts the tokens back into the
order of the image and predicts every patch, and the loss looks at the hidden ones (arXiv:2111.06377). It has the
blocks, widths and number of parameters of our network. Images are dense, and lie in pinned memory from the beginning:
reading them costs nothing here. Autocast brings bf16; the gradient is clipped.

Shapes: B jets, C channels, H W image, L patches, K kept ones, P values of a patch, D width.
"""

import torch
from torch import Tensor, nn

from jetmae.config import Experiment, Reconstruct
from jetmae.model.patches import sincos_positions
from jetmae.model.timm_blocks import LAYER_NORM_EPS, TimmBlock, transformer_block
from jetmae.model.vit import initialise


def usual_block(dim: int, heads: int, mlp_ratio: float) -> nn.Module:
    """timm's block, whose attention is the kernel that torch chooses."""
    return transformer_block(dim, heads, mlp_ratio, kind=TimmBlock)


class PlainMae(nn.Module):
    def __init__(self, image_shape: tuple[int, int, int], experiment: Experiment):
        super().__init__()
        model, task = experiment.model, experiment.reconstruct or Reconstruct()
        channels, height, width = image_shape
        grid = (height // model.patch_size, width // model.patch_size)
        self.mask_ratio, self.patch_size = task.mask_ratio, model.patch_size
        self.patch_embed = nn.Conv2d(channels, model.dim, model.patch_size, model.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, model.dim))
        self.register_buffer("positions", sincos_positions(model.dim, *grid))
        self.blocks = nn.Sequential(*(usual_block(model.dim, model.heads, model.mlp_ratio) for _ in range(model.depth)))
        self.norm = nn.LayerNorm(model.dim, eps=LAYER_NORM_EPS)
        self.decoder_embed = nn.Linear(model.dim, task.decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, task.decoder_dim))
        self.register_buffer("decoder_positions", sincos_positions(task.decoder_dim, *grid))
        self.decoder_blocks = nn.Sequential(
            *(usual_block(task.decoder_dim, task.decoder_heads, model.mlp_ratio)
              for _ in range(task.decoder_depth))
        )  # fmt: skip
        self.decoder_norm = nn.LayerNorm(task.decoder_dim, eps=LAYER_NORM_EPS)
        self.prediction = nn.Linear(task.decoder_dim, channels * model.patch_size**2)
        initialise(self)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """The mean squared error of the hidden patches, a scalar."""
        patches_BLD = self.patch_embed(images_BCHW).flatten(2).transpose(1, 2) + self.positions[:, 1:]
        kept_BLD, hidden_BL, restore_BL = self.hide(patches_BLD)
        cls_B1D = (self.cls_token + self.positions[:, :1]).expand(len(kept_BLD), -1, -1)
        latent_BKD = self.norm(self.blocks(torch.cat([cls_B1D, kept_BLD], dim=1)))
        predicted_BLP = self.decode(latent_BKD, restore_BL)
        error_BL = ((predicted_BLP - self.patchify(images_BCHW)) ** 2).mean(dim=-1)
        return (error_BL * hidden_BL).sum() / hidden_BL.sum()

    def hide(self, patches_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The kept patches, 1 where a patch is hidden, and the places that bring shuffled tokens back in order."""
        B, L, D = patches_BLD.shape
        kept = int(L * (1 - self.mask_ratio))
        shuffle_BL = torch.rand(B, L, device=patches_BLD.device).argsort(dim=1)
        restore_BL = shuffle_BL.argsort(dim=1)
        kept_BLD = patches_BLD.gather(1, shuffle_BL[:, :kept, None].expand(-1, -1, D))
        return kept_BLD, (restore_BL >= kept).float(), restore_BL

    def decode(self, latent_BKD: Tensor, restore_BL: Tensor) -> Tensor:
        tokens_BKD = self.decoder_embed(latent_BKD)
        B, L = restore_BL.shape
        hidden_BMD = self.mask_token.expand(B, L + 1 - tokens_BKD.shape[1], -1).to(tokens_BKD.dtype)
        shuffled_BLD = torch.cat([tokens_BKD[:, 1:], hidden_BMD], dim=1)
        ordered_BLD = shuffled_BLD.gather(1, restore_BL[..., None].expand(-1, -1, shuffled_BLD.shape[2]))
        tokens_BLD = torch.cat([tokens_BKD[:, :1], ordered_BLD], dim=1) + self.decoder_positions
        return self.prediction(self.decoder_norm(self.decoder_blocks(tokens_BLD)))[:, 1:]

    def patchify(self, images_BCHW: Tensor) -> Tensor:
        B, C, H, W = images_BCHW.shape
        p = self.patch_size
        cut = images_BCHW.reshape(B, C, H // p, p, W // p, p)
        return torch.einsum("bchpwq->bhwpqc", cut).reshape(B, (H // p) * (W // p), p * p * C)


class PlainTraining:
    """Steps of a `PlainMae` over dense images (N, C, H, W) on the host, in micro-batches."""

    def __init__(self, images_NCHW: Tensor, experiment: Experiment, device: torch.device, precision: str):
        self.device, self.precision = device, precision
        self.micro_batch_size = experiment.optim.batch_size
        self.images_NCHW = images_NCHW.pin_memory() if device.type == "cuda" else images_NCHW
        self.network = PlainMae(tuple(images_NCHW.shape[1:]), experiment).to(device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, weight_decay=0.05)
        self.step_number = 0

    def step(self) -> float:
        """One update; its loss."""
        batches = len(self.images_NCHW) // self.micro_batch_size
        first = self.step_number % batches * self.micro_batch_size
        self.step_number += 1
        images_BCHW = self.images_NCHW[first : first + self.micro_batch_size].to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            loss = self.network(images_BCHW)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

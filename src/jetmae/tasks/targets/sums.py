"""What a patch says as a whole: sums over its pixels, channel by channel.

Single pixels of a hidden patch are random; how much is in it is not. Each loss is one number per patch and channel:

    log_sums       squared error of log(1 + S / scale), standardised: every channel and both tails count alike
    tweedie_sums   Tweedie deviance of power 1.5 of S / mean, for sums that are often 0 and else positive
                   (Dunn and Smyth 2005): its best prediction is the expectation of S
    raw_sums       squared error of that expectation, divided by the standard deviation of the place and of the channel
    occupancy      binary cross-entropy of "there is something"
    signed_sums    squared error of the signed sum, standardised and clipped; of the channels d0 and dz alone

S is the sum of absolute values in source units. `tweedie_sums` and `raw_sums` share one output, log(S / mean).

Shapes: B jets, M asked patches, C channels, L patches, V predicted values of a patch.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from jetmae.data.images import ImageMaker
from jetmae.data.patch_sums import PatchSums
from jetmae.tasks.predictors.spaces import SumSpaces
from jetmae.tasks.targets.pixels import in_source_units, squared_pixel_error
from jetmae.tasks.targets.statistics import SumStatistics, sum_statistics
from jetmae.tasks.targets.target import Target, Truth

HEADS = {
    "log_sums": "log_sum",
    "tweedie_sums": "log_mean",
    "raw_sums": "log_mean",
    "occupancy": "occupancy",
    "signed_sums": "signed_sum",
}
"""The output that each loss looks at."""
Loss = Callable[[Mapping[str, Tensor], Truth], Tensor]
LOG_MEAN_LIMIT = 8.0
LEAST_OCCUPIED = 1e-3


class SumsTarget(Target):
    """A weighted sum of the losses above, and of the pixels' squared error."""

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        spaces: SumSpaces,
        images: ImageMaker,
        patch_pixels: int,
        hidden_fraction: float,
    ):
        self.weights, self.spaces, self.images, self.patch_pixels = dict(weights), spaces, images, patch_pixels
        self.hidden_fraction = hidden_fraction
        channels = len(spaces.scale_C)
        heads = list(dict.fromkeys(HEADS[name] for name in weights if name in HEADS))
        self.widths = dict.fromkeys(heads, channels) | (
            {"pixels": channels * patch_pixels} if "pixels" in weights else {}
        )
        self.values = sum(self.widths.values())
        self.statistics: SumStatistics | None = None

    def learn(self, batches: Iterable[PatchSums]) -> None:
        self.statistics = sum_statistics(batches, self.spaces)

    def offset(self) -> Float[Tensor, "L V"]:
        known = self._known()
        offsets = {
            "log_sum": (known.log_mean_LC - known.log_mean_C) / known.log_std_C,
            "log_mean": (known.mean_LC / known.mean_C).clamp(min=LEAST_OCCUPIED).log(),
            "occupancy": torch.logit(known.occupied_LC),
        }
        nothing_LC = torch.zeros_like(known.mean_LC)
        wide = {head: nothing_LC.new_zeros((len(nothing_LC), width)) for head, width in self.widths.items()}
        return torch.cat([offsets.get(head, wide[head]) for head in self.widths], dim=1)

    def loss(
        self, prediction_BMV: Float[Tensor, "B M V"], truth: Truth, hidden_BMC: Bool[Tensor, "B M C"] | None
    ) -> Float[Tensor, ""]:
        return self.loss_per_jet(prediction_BMV, truth, hidden_BMC).mean()

    def loss_per_jet(
        self, prediction_BMV: Float[Tensor, "B M V"], truth: Truth, hidden_BMC: Bool[Tensor, "B M C"] | None
    ) -> Float[Tensor, " B"]:
        """Over what is hidden, divided by how much is hidden on average.

        Not by how much of this jet is: then jets of which little is hidden would count as much as the others.
        """
        error_BMC = self.errors(self._outputs(prediction_BMV), truth)
        if hidden_BMC is not None:
            error_BMC = error_BMC * hidden_BMC / self.hidden_fraction
        return error_BMC.mean((1, 2))

    def errors(self, outputs: Mapping[str, Tensor], truth: Truth) -> Float[Tensor, "B M C"]:
        """The weighted sum of the losses, per patch and channel."""
        losses: dict[str, Loss] = {
            "log_sums": self._log_sums,
            "tweedie_sums": self._tweedie,
            "raw_sums": self._raw_sums,
            "occupancy": self._occupancy,
            "signed_sums": self._signed_sums,
            "pixels": self._pixels,
        }
        parts = [weight * losses[name](outputs, truth) for name, weight in self.weights.items()]
        return torch.stack(parts).sum(dim=0)

    def guess(self, prediction_BMV: Float[Tensor, "B M V"]) -> Float[Tensor, "B M values C"]:
        return self.expected(prediction_BMV)[self._reported][:, :, None]

    def answer(self, truth: Truth) -> Float[Tensor, "B M values C"]:
        return self.truths(truth)[self._reported][:, :, None]

    @property
    def _reported(self) -> str:
        return "log_sums" if "log_sums" in self.weights else "sums"

    def expected(self, prediction_BMV: Float[Tensor, "B M V"]) -> dict[str, Tensor]:
        """Expectations (B, M, C) in source units: `sums`, signed where a channel is, and `log_sums` where predicted."""
        known, outputs = self._known(), self._outputs(prediction_BMV)
        found = {}
        if "log_sum" in outputs:
            found["log_sums"] = outputs["log_sum"] * known.log_std_C + known.log_mean_C
        found["sums"] = self._sums(outputs)
        if "signed_sum" in outputs:
            signed_BMC = outputs["signed_sum"] * known.signed_std_C
            found["sums"] = torch.where(self.spaces.is_signed_C, signed_BMC, found["sums"])
        return found

    def _sums(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """From the best output that there is for it."""
        known = self._known()
        if "log_mean" in outputs:
            return self._mean(outputs)
        if "log_sum" in outputs:  # without a correction for the curvature of the logarithm
            log_sums = outputs["log_sum"] * known.log_std_C + known.log_mean_C
            return torch.expm1(log_sums.clamp(min=0)) * self.spaces.scale_C
        if "pixels" in outputs:
            return in_source_units(outputs["pixels"], self.images).sum(dim=2)
        if "occupancy" in outputs:  # as much as there is in an occupied patch on average
            return outputs["occupancy"].sigmoid() * known.mean_C / known.occupied_LC.mean(0)
        return torch.zeros_like(outputs["signed_sum"])

    def truths(self, truth: Truth) -> dict[str, Tensor]:
        """What `expected` is compared with."""
        return self.spaces.truths(truth.sums.absolute_BLC, truth.sums.signed_BLC)

    def to_pixels(self, prediction_BMV: Tensor, truth: Truth) -> Float[Tensor, "B M P"]:
        """Every pixel of a patch has the same share of its sum."""
        sums_BMC = self.expected(prediction_BMV)["sums"]
        return (sums_BMC / self.patch_pixels).repeat(1, 1, self.patch_pixels)

    def space(self) -> str:
        name = "log(1 + sum / scale)" if self._reported == "log_sums" else "sum"
        return f"{name} of the absolute values of each patch, in source units"

    def _outputs(self, prediction_BMV: Tensor) -> dict[str, Tensor]:
        parts = prediction_BMV.float().split(list(self.widths.values()), dim=-1)
        return dict(zip(self.widths, parts, strict=True))

    def _known(self) -> SumStatistics:
        if self.statistics is None:
            raise ValueError("the target has learnt nothing of the training jets yet: call learn() first")
        return self.statistics

    def _mean(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """E[S], source units."""
        return outputs["log_mean"].clamp(-LOG_MEAN_LIMIT, LOG_MEAN_LIMIT).exp() * self._known().mean_C

    def _pixels(self, outputs: Mapping[str, Tensor], truth: Truth) -> Tensor:
        return squared_pixel_error(outputs["pixels"], truth.pixels_BMP, len(self.spaces.scale_C))

    def _log_sums(self, outputs: Mapping[str, Tensor], truth: Truth) -> Tensor:
        known = self._known()
        target_BMC = (self.spaces.log_sums(truth.sums.absolute_BLC) - known.log_mean_C) / known.log_std_C
        return (outputs["log_sum"] - target_BMC) ** 2

    def _tweedie(self, outputs: Mapping[str, Tensor], truth: Truth) -> Tensor:
        """Of power 1.5: 2 (y / sqrt(mu) + sqrt(mu)) - 4 sqrt(y), which is 0 where mu = y."""
        log_mean = outputs["log_mean"].clamp(-LOG_MEAN_LIMIT, LOG_MEAN_LIMIT)
        y = truth.sums.absolute_BLC / self._known().mean_C
        return 2 * (y * torch.exp(-0.5 * log_mean) + torch.exp(0.5 * log_mean)) - 4 * y.sqrt()

    def _raw_sums(self, outputs: Mapping[str, Tensor], truth: Truth) -> Tensor:
        known = self._known()
        std_C = known.std_LC.mean(0).clamp(min=1e-6)
        place_LC = (known.std_LC / std_C).clamp(min=0.05) * std_C**2
        error_BMC = (self._mean(outputs) - truth.sums.absolute_BLC) ** 2
        return error_BMC / (place_LC if truth.asked_BM is None else place_LC[truth.asked_BM])

    def _occupancy(self, outputs: Mapping[str, Tensor], truth: Truth) -> Tensor:
        occupied_BMC = (truth.sums.absolute_BLC > 0).float()
        return F.binary_cross_entropy_with_logits(outputs["occupancy"], occupied_BMC, reduction="none")

    def _signed_sums(self, outputs: Mapping[str, Tensor], truth: Truth) -> Tensor:
        known = self._known()
        target_BMC = known.clipped(truth.sums.signed_BLC) / known.signed_std_C
        share = len(self.spaces.scale_C) / self.spaces.is_signed_C.sum().clamp(min=1)  # a mean over the signed channels
        return (outputs["signed_sum"] - target_BMC) ** 2 * self.spaces.is_signed_C * share

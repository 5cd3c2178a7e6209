"""From stored values to what the network sees: a value transform, then a shift and a scale per channel.

The constants come from a training split alone and travel with the dataset's manifest and with every exported weight
file, so that fine-tuning sees exactly what pretraining saw.

    none    t(v) = v
    asinh   t(v) = asinh(v / scale)                  linear near 0, logarithmic for large |v|, keeps the sign
    log     t(v) = sign(v) log(1 + |v| / scale)

All three map 0 to 0, so an empty pixel needs no work. The network sees (t(v) - mean) / std, with per channel

              scale                                   mean, std
    none      1                                       of t(v) over all pixels of the split, empty ones included
    asinh     median of |v| of the non-zero pixels    the same
    log       LOG_SCALES where name and unit are      0, and the rms of t(v) over the non-zero pixels, times tower_size
              known, else as asinh                    for a channel that is stored per tower

With `log` an empty pixel is thus exactly 0, and the others have a size of about 1. A tower fills tower_size squared
equal pixels; divided by tower_size, they have together the squares of one. The simulation divides a tower's energy
evenly among its pixels, so that log1p(pixel / (scale / tower_size^2)) = log1p(tower / scale).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jetmae.data.manifest import Manifest
from jetmae.data.shards import Shard

TRANSFORMS = ("none", "asinh", "log")
LOG_SCALES = {
    ("track_pt", "GeV"): 1.0,
    ("d0", "cm"): 0.02,
    ("dz", "cm"): 1.0,
    ("ecal", "GeV"): 0.3,
    ("bpix1", "hits"): 1.0,
    ("bpix2", "hits"): 1.0,
    ("bpix3", "hits"): 1.0,
}
"""Scale of `log` by a channel's name and unit: the size of a usual value, rounded, so that datasets agree."""
LOG_SCALES_OF_A_TOWER = {("hcal", "GeV"): 2.0}
"""The same, of all pixels of a tower together."""
MAX_VALUES_FOR_MEDIAN = 1_000_000  # per channel; more would move the median by less than a per mille


@dataclass(frozen=True)
class Normalisation:
    """Constants of one transform, one entry per channel."""

    transform: str
    scale: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def transform_values(value: NDArray[np.floating], transform: str, scale: float) -> NDArray[np.float64]:
    """t(v) in float64; see the formulas at the top of this file."""
    exact: NDArray[np.float64] = value.astype(np.float64, copy=False)
    if transform == "none":
        return exact
    scaled: NDArray[np.float64] = exact / scale
    if transform == "asinh":
        return np.arcsinh(scaled)
    if transform == "log":
        return np.copysign(np.log1p(np.abs(scaled)), exact)
    raise ValueError(f"transform {transform!r} is not one of {TRANSFORMS}")


@dataclass
class Moments:
    """Mean and sum of squared deviations of some pixels, merged shard by shard without loss of digits."""

    pixels: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: NDArray[np.float64], weights: NDArray[np.int64] | int, pixels: int) -> None:
        """Add `pixels` pixels: each of `values` stands for `weights` of them, the rest are 0."""
        if not pixels:
            return
        mean = float((values * weights).sum()) / pixels
        zeros = pixels - int(np.broadcast_to(weights, values.shape).sum())
        squares = float(((values - mean) ** 2 * weights).sum()) + zeros * mean**2
        # Chan, Golub, LeVeque 1979: the difference of two large sums, which would lose digits, never appears.
        total, shift = self.pixels + pixels, mean - self.mean
        self.squares += squares + shift**2 * self.pixels * pixels / total
        self.mean += shift * pixels / total
        self.pixels = total

    @property
    def std(self) -> float:
        """Standard deviation, or 1 where all pixels are equal: such a channel is to become 0, not infinite."""
        return float(np.sqrt(self.squares / self.pixels)) if self.squares > 0 else 1.0

    @property
    def rms(self) -> float:
        """Root of the mean square, or 1 where there is no pixel."""
        return float(np.sqrt(self.squares / self.pixels + self.mean**2)) if self.pixels else 1.0


def constants_of_split(shards: Iterable[Shard], manifest: Manifest) -> dict[str, dict[str, list[float]]]:
    """Constants for every transform, `{transform: {scale, mean, std}}`, from the shards of a training split.

    A value stored for a tower counts tower_size squared times. A constant or empty channel gets std 1. Two passes over
    the shards, the first for the medians; memory does not grow with their number.
    """
    shards = list(shards)
    medians = _medians_of_nonzeros(shards, _pixels(manifest), manifest.tower_size)
    scale = {"none": [1.0] * len(medians), "asinh": medians, "log": _log_scales(manifest, medians)}
    moments = _moments(shards, manifest, scale)
    mean = {t: [m.mean for m in moments[t]] for t in TRANSFORMS} | {"log": [0.0] * len(medians)}
    std = {t: [m.std for m in moments[t]] for t in TRANSFORMS} | {"log": _log_stds(shards, manifest, moments["log"])}
    return {t: {"scale": scale[t], "mean": mean[t], "std": std[t]} for t in TRANSFORMS}


def _pixels(manifest: Manifest) -> int:
    """Of one channel of one jet."""
    _, height, width = manifest.image_shape
    return height * width


def _moments(shards: list[Shard], manifest: Manifest, scale: dict[str, list[float]]) -> dict[str, list[Moments]]:
    """Of each transform and channel: of the non-zero pixels for `log`, otherwise of all."""
    pixels = _pixels(manifest)
    moments = {t: [Moments() for _ in manifest.channels] for t in TRANSFORMS}
    for shard in shards:
        for channel, (values, weights) in enumerate(values_by_channel(shard, pixels, manifest.tower_size)):
            for t in TRANSFORMS:
                counted = int(weights.sum()) if t == "log" else len(shard) * pixels
                moments[t][channel].add(transform_values(values, t, scale[t][channel]), weights, counted)
    return moments


def _log_stds(shards: list[Shard], manifest: Manifest, moments: list[Moments]) -> list[float]:
    towers = {channel for shard in shards for channel in shard.entry.tower_channels}
    return [m.rms * (manifest.tower_size if channel in towers else 1) for channel, m in enumerate(moments)]


def _log_scales(manifest: Manifest, medians: list[float]) -> list[float]:
    """The scale of `log` of each channel; `medians` are for those that are not known."""
    known = dict(LOG_SCALES)
    if manifest.tower_size:
        known |= {key: scale / manifest.tower_size**2 for key, scale in LOG_SCALES_OF_A_TOWER.items()}
    channels = zip(manifest.channels, manifest.units, medians, strict=True)
    return [known.get((name, unit), median) for name, unit, median in channels]


def values_by_channel(
    shard: Shard, pixels: int, tower_size: int
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """For each channel its stored values (nnz,) in float64, and how many pixels each stands for."""
    jets, channels = shard.count_NC.shape
    channel_of_value = np.repeat(np.tile(np.arange(channels, dtype=np.uint8), jets), shard.count_NC.reshape(-1))
    for channel in range(channels):
        stored = np.flatnonzero(channel_of_value == channel)
        weights = np.where(shard.index[stored] >= pixels, tower_size**2, 1)
        yield shard.value[stored].astype(np.float64), weights


class ThinnedSample:
    """Evenly spaced values of a long stream, for a median that needs no more memory than MAX_VALUES_FOR_MEDIAN."""

    def __init__(self, expected_values: int):
        self.step = max(1, -(-expected_values // MAX_VALUES_FOR_MEDIAN))
        self.seen = 0
        self.values, self.weights = [np.empty(0, np.float32)], [np.empty(0, np.int32)]

    def add(self, values: NDArray[np.float64], weights: NDArray[np.int64]) -> None:
        chosen = slice(-self.seen % self.step, None, self.step)
        # As float32, which they were: half the memory, no loss. astype also copies, or a slice would keep all values.
        self.values.append(values[chosen].astype(np.float32))
        self.weights.append(weights[chosen].astype(np.int32))
        self.seen += len(values)

    def median(self) -> float | None:
        """The smallest value that, with all below it, has half of the weight; None if there is no value."""
        values, weights = np.concatenate(self.values), np.concatenate(self.weights)
        if not len(values):
            return None
        if weights.min() == weights.max():  # the usual case, and then no full sort is needed
            half = (len(values) - 1) // 2
            return float(np.partition(values, half)[half])
        order = np.argsort(values)
        cumulative = np.cumsum(weights[order], dtype=np.int64)
        return float(values[order][np.searchsorted(cumulative, cumulative[-1] / 2)])


def stored_values_of(shards: Iterable[Shard]) -> list[int]:
    """How many values the shards store of each channel."""
    return [int(stored) for stored in sum(shard.count_NC.sum(axis=0, dtype=np.int64) for shard in shards)]


def _medians_of_nonzeros(shards: list[Shard], pixels: int, tower_size: int) -> list[float]:
    """Median of |value| of each channel over its non-zero pixels, 1 for an empty one."""
    samples = [ThinnedSample(stored) for stored in stored_values_of(shards)]
    for shard in shards:
        for sample, (values, weights) in zip(samples, values_by_channel(shard, pixels, tower_size), strict=True):
            sample.add(np.abs(values), weights)
    return [1.0 if (median := sample.median()) is None else median for sample in samples]

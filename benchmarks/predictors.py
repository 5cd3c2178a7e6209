"""How much of hidden patch sums simple predictors explain, without a network: mean image, scaled mean image, ridge.

    python benchmarks/predictors.py --markdown benchmarks/results/predictors_HARDWARE_DATE.md

data/sample is the shipped sample, converted: `make demo` makes it. They are fitted on all jets of one split and scored
on those of another. Three kinds of masks:

    patches        75 % of the patches
    patch_groups   each group of channels of each patch with 75 %
    groups         60 % of the patches, and 1 to 4 whole groups of each jet

Groups: track pT; d0 and dz; ECAL; HCAL; pixel layers. Explained variance in % over what is hidden, with its jackknife
error over jets.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from jetmae.data.batch import make_batch
from jetmae.data.images import ImageMaker
from jetmae.data.normalisation import Normalisation
from jetmae.data.shards import JetDataset
from jetmae.metrics import explained_variance
from jetmae.tasks.predictors.explained_variance_sums import explained_variance_sums, squared_error
from jetmae.tasks.predictors.mean_image import MeanImagePredictor
from jetmae.tasks.predictors.predictors import Predictor, fit_predictors
from jetmae.tasks.predictors.spaces import SumsBatch, SumSpaces, sum_scales, sum_spaces

GROUP_OF_CHANNEL = [0, 1, 1, 2, 3, 4, 4, 4]
GROUPS, SIDE, PATCH_SIZE, RATIO, BATCH = 5, 25, 5, 0.75, 50
KINDS = ("patches", "patch_groups", "groups")
Sums = tuple[torch.Tensor, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/sample"), help="8 channels of 125 x 125 pixels")
    parser.add_argument("--train-split", default="unlabelled_train")
    parser.add_argument("--test-split", default="test")
    parser.add_argument(
        "--hardware", default="one core of a 2-core x86-64 virtual machine", help="for the result's text"
    )
    parser.add_argument("--markdown", type=Path, help="write the result there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train, test = (JetDataset(arguments.data, split) for split in (arguments.train_split, arguments.test_split))
    text = report(train, test, arguments)
    print(text)
    if arguments.markdown:
        arguments.markdown.write_text(text)


def report(train: JetDataset, test: JetDataset, arguments: argparse.Namespace) -> str:
    manifest = train.manifest
    train_sums, test_sums = sums_of(train), sums_of(test)
    spaces = sum_spaces(manifest.channels, manifest.units, sum_scales(manifest.channels, train_sums[0]))
    lines = [
        "# What simple predictors explain of hidden patch sums",
        "",
        f"`python benchmarks/predictors.py --data {arguments.data}`: {len(train):,} jets to fit, {len(test)} to score.",
        "Explained variance in % over what is hidden, with its jackknife error over jets; 0 is the mean of a channel.",
        "Sums of d0 and dz are signed, other sums and all log sums are of absolute values.",
        f"Seconds on {arguments.hardware} that other work shares.",
    ]
    for kind in KINDS:
        lines += table(kind, train_sums, test_sums, spaces, manifest.channels)
    return "\n".join(lines) + "\n"


def table(kind: str, train: Sums, test: Sums, spaces: SumSpaces, channels: tuple[str, ...]) -> list[str]:
    started_at_s = time.perf_counter()
    groups = [0] * len(channels) if kind == "patches" else GROUP_OF_CHANNEL
    predictors = fit_predictors(lambda: masked(kind, train, seed=1), spaces, (SIDE, SIDE), groups)
    fitted_at_s = time.perf_counter()
    rows = [
        f"| {name.replace('_', ' ')}, {space.replace('_', ' ')} | {' | '.join(cells)} |"
        for name, predictor in predictors.items()
        for space, cells in cells_of(predictor, spaces, masked(kind, test, seed=2)).items()
    ]
    predicted_at_s = time.perf_counter()
    return [
        "",
        f"## Mask: {kind}",
        "",
        f"{fitted_at_s - started_at_s:.0f} s to fit, {predicted_at_s - fitted_at_s:.0f} s to predict and score.",
        "",
        f"| predictor, space | {' | '.join(channels)} |",
        "|---" * (len(channels) + 1) + "|",
        *sorted(rows, key=lambda row: "log sums" not in row),
    ]


def cells_of(predictor: Predictor, spaces: SumSpaces, batches: Iterator[SumsBatch]) -> dict[str, list[str]]:
    """For each space one cell per channel."""
    sums = {"log_sums": [], "sums": []}
    for absolute_BLC, signed_BLC, hidden_BLC in batches:
        predicted = predictor.predict(absolute_BLC, signed_BLC, hidden_BLC)
        for space, truth_BLC in spaces.truths(absolute_BLC, signed_BLC).items():
            found = explained_variance_sums(truth_BLC, predicted[space], hidden_BLC)
            excess_LC = predictor.excess[space] if isinstance(predictor, MeanImagePredictor) else None
            sse_BC = squared_error(truth_BLC, predicted[space], hidden_BLC, excess_LC)
            sums[space].append(torch.stack([sse_BC, found.sum, found.sum_of_squares, found.count.double()]))
    return {space: [cell(x_4n) for x_4n in torch.cat(parts, dim=1).unbind(-1)] for space, parts in sums.items()}


def cell(sums_4n: torch.Tensor) -> str:
    """Of one channel."""
    sse_n, sum_n, squares_n, count_n = sums_4n.numpy()
    result = explained_variance(sse_n[:, None], sum_n[:, None], squares_n[:, None], count_n)
    return f"{100 * result.value_C[0]:.2f} ± {100 * result.uncertainty_C[0]:.2f}"


def masked(kind: str, sums: Sums, seed: int) -> Iterator[SumsBatch]:
    """All jets with their masks, which are the same each time."""
    generator = torch.Generator().manual_seed(seed)
    for absolute_BLC, signed_BLC in zip(*(x.split(BATCH) for x in sums), strict=True):
        yield absolute_BLC, signed_BLC, hidden(kind, len(absolute_BLC), generator)[..., GROUP_OF_CHANNEL]


def hidden(kind: str, jets: int, generator: torch.Generator) -> torch.Tensor:
    """(B, L, G)."""
    size = (jets, SIDE**2, GROUPS)
    if kind == "patch_groups":
        return torch.rand(size, generator=generator) < RATIO
    order_BL = torch.rand(size[:2], generator=generator).argsort(1).argsort(1)
    if kind == "patches":
        return (order_BL >= int(SIDE**2 * (1 - RATIO)))[..., None].expand(size)
    wanted_B1 = torch.randint(1, GROUPS, (jets, 1), generator=generator)
    whole_BG = torch.rand((jets, GROUPS), generator=generator).argsort(1).argsort(1) < wanted_B1
    return (order_BL >= int(SIDE**2 * 0.4))[..., None] | whole_BG[:, None]


def sums_of(dataset: JetDataset) -> Sums:
    """Absolute and signed sums (n, L, C) of the patches of all jets, from dense images."""
    manifest, channels = dataset.manifest, len(dataset.manifest.channels)
    nothing = Normalisation("none", (1.0,) * channels, (0.0,) * channels, (1.0,) * channels)
    towers = manifest.splits[dataset.split][0].tower_channels
    images = ImageMaker(
        manifest.image_shape, nothing, torch.device("cpu"), tower_size=manifest.tower_size, tower_channels=towers
    )
    absolute, signed = [], []
    for ids in np.array_split(np.arange(len(dataset)), len(dataset) // BATCH + 1):
        batch = make_batch(dataset.split, dataset.gather(ids), ids, np.zeros((len(ids), 0), dtype=np.float32))
        patches = images(batch).unfold(2, PATCH_SIZE, PATCH_SIZE).unfold(3, PATCH_SIZE, PATCH_SIZE)
        for sums, values in ((absolute, patches.abs()), (signed, patches)):
            sums.append(values.sum((-1, -2)).flatten(2).transpose(1, 2))
    return torch.cat(absolute), torch.cat(signed)


if __name__ == "__main__":
    main()

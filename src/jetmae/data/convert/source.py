"""What all source files share, whatever their format: names that are looked for, shapes, and what a source gives.

Shapes: N jets of a file, B of a block, C channels, H rows, W columns.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetmae.data.convert.listing import listing
from jetmae.data.shards import MAX_PLACES
from jetmae.errors import DataError

# Compared in lower case and without underscores.
IMAGE_NAMES = ("jet", "jets", "xjets", "image", "images", "x")
LABEL_NAMES = (
    "y", "label", "labels", "target", "targets", "class", "classlabel", "jetlabel", "truthlabel", "truthlabels",
    "issignal", "issignalnew", "istop", "isquark",
)  # fmt: skip
MASS_NAMES = ("m", "m0", "mass", "massgev", "mgev")
PT_NAMES = ("pt", "ptgev", "jetpt")
SPLIT_OF_PREFIX = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "unlabelled_train": "unlabelled_train", "unlabelled_validation": "unlabelled_validation",
    "unlabelled_test": "unlabelled_test",
}  # fmt: skip
# The order of d0 and dz differs between sources: --channels sets the names, nothing else depends on them.
CHANNEL_NAMES = {
    8: ("track pT", "track d0", "track dz", "ECAL", "HCAL", "BPIX1", "BPIX2", "BPIX3"),
    3: ("track pT", "ECAL", "HCAL"),
}
BLOCK_JETS = 16  # 8 MB of dense 8-channel images: near enough to the cache, few enough calls


@dataclass(frozen=True)
class SourceOptions:
    """What the user knows better than a look at the file tells. None: look."""

    image_key: str | None = None
    """Name of the image array or column."""
    label_key: str | None = None
    """Name of the label array or column."""
    layout: str | None = None
    """channels-last or channels-first."""
    label_column: str | None = None
    """first or last: where the label stands in a table of labels, masses and pT."""
    image_shape: tuple[int, int, int] | None = None
    """(C, H, W), needed only for flat images whose shape is not evident."""
    channels: tuple[str, ...] | None = None
    """Channel names in the file's order."""
    units: tuple[str, ...] | None = None
    """Unit of each channel."""
    classes: tuple[str, ...] | None = None
    """Class names in the order of the label numbers; where labels are words, these words."""
    allow_unwritten: bool = False
    """Take rows that nobody wrote as they read, instead of refusing the file."""


@dataclass(frozen=True)
class SourcePart:
    """The jets of one image array or column.

    `blocks()` yields (first row, images (B, H, W, C) or (B, C, H, W)); a block is valid until the next is asked for.
    `split` is what the file's own keys say, else None. label_N (N,) integers, mass and pT in GeV (N,), or None.
    label_N counts `label_words` where the file's labels are words, else `classes`. `also_read` are the other files that
    values come from, and `notes` what the user should know.
    """

    path: Path
    key: str
    split: str | None
    rows: int
    image_shape: tuple[int, int, int]
    channels_last: bool
    layout: str
    blocks: Callable[[], Iterator[tuple[int, NDArray[Any]]]]
    label_N: NDArray[np.int64] | None = None
    label_words: tuple[str, ...] | None = None
    mass_N: NDArray[np.float32] | None = None
    pt_N: NDArray[np.float32] | None = None
    channels: tuple[str, ...] | None = None
    units: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    also_read: frozenset[Path] = frozenset()
    notes: tuple[str, ...] = ()


def resolve_axes(shape: tuple[int, int, int], options: SourceOptions, where: str) -> tuple[tuple[int, int, int], bool]:
    """(C, H, W) and whether channels come last, from the shape of one image: the small axis is the channels.

    Raises:
        DataError: the small axis is neither the first nor the last, there is none, or the images are too large.
    """
    first, middle, last = shape
    channels_last = last < min(first, middle)
    if options.layout is not None:
        channels_last = options.layout == "channels-last"
    elif not channels_last and not first < min(middle, last):
        raise DataError(
            f"{where}: cannot tell rows, columns and channels apart in images of shape {shape}, expected a smallest"
            " axis first or last; say --layout channels-last or --layout channels-first"
        )
    return _fitting((last, first, middle) if channels_last else (first, middle, last), where), channels_last


def resolve_flat(length: int, options: SourceOptions, where: str) -> tuple[tuple[int, int, int], bool]:
    """(C, H, W) of an image stored as a flat list; rows, columns, channels unless --layout says otherwise."""
    channels_last = options.layout != "channels-first"
    if options.image_shape is not None:
        if int(np.prod(options.image_shape)) == length:
            return _fitting(options.image_shape, where), channels_last
        raise DataError(f"{where}: {length} values per image, but --image-shape {options.image_shape}; correct it")
    for channels in CHANNEL_NAMES:
        side = round((length / channels) ** 0.5)
        if channels * side * side == length:
            return _fitting((channels, side, side), where), channels_last
    raise DataError(
        f"{where}: {length} values per image are no square image of {' or '.join(map(str, CHANNEL_NAMES))} channels;"
        " say --image-shape C,H,W"
    )


def _fitting(shape: tuple[int, int, int], where: str) -> tuple[int, int, int]:
    _, height, width = shape
    if height * width >= MAX_PLACES:
        raise DataError(
            f"{where}: images of {height} x {width} pixels, expected fewer than {MAX_PLACES}"
            " (places and counts are stored in two bytes); crop or rebin them first"
        )
    return shape


def order_name(channels_last: bool) -> str:
    return "channels last" if channels_last else "channels first"


def split_of_key(key: str) -> tuple[str | None, str]:
    """`train_jet` -> ("train", "train_"); `jet` -> (None, "")."""
    match = re.fullmatch(r"(?:.*/)?([a-z_]+)[_/][^_/]+", key.lower())
    split = SPLIT_OF_PREFIX.get(match.group(1)) if match else None
    return (split, key[: len(key) - len(re.split("[_/]", key)[-1])]) if split else (None, "")


def find_names(names: Iterable[str], wanted: tuple[str, ...], prefix: str = "") -> list[str]:
    """Those of `names` that are prefix + one of `wanted`, in the order of `wanted`."""
    found = {
        name: name[len(prefix) :].lower().replace("_", "") for name in names if name.lower().startswith(prefix.lower())
    }
    return [name for want in wanted for name, rest in found.items() if rest == want]


def label_column(columns_NM: NDArray[Any], options: SourceOptions, where: str) -> int:
    """Which column of a table (N, M) is the label: the first or last one, that which holds class numbers only.

    Masses and momenta are hundreds of GeV and not whole, so at most one column does.

    Raises:
        DataError: both or neither do.
    """
    last = int(columns_NM.shape[1]) - 1
    if options.label_column is not None:
        return 0 if options.label_column == "first" else last
    numbers = np.arange(len(options.classes or (0, 1)))
    candidates = [column for column in sorted({0, last}) if np.isin(columns_NM[:, column], numbers).all()]
    if len(candidates) == 1:
        return candidates[0]
    raise DataError(
        f"{where}: {'both' if candidates else 'neither'} of the first and last column (first row:"
        f" {listing(columns_NM[0].tolist())}) hold only {numbers.tolist()}, expected exactly one, the label; say"
        " --label-column first or last"
    )


def split_table(columns_NM: NDArray[Any], column: int) -> dict[str, NDArray[Any]]:
    """label, mass and pT from a table: (y, m, pT) if the label is first, (pT, m, y) if it is last.

    Columns that hold nothing but 0 and 1 are flags, and neither mass nor pT.
    """
    other = {"mass": 1, "pt": 2 if column == 0 else 0} if columns_NM.shape[1] == 3 else {}
    values = {name: columns_NM[:, number] for name, number in other.items()}
    return {"label": columns_NM[:, column]} | {
        name: column_N for name, column_N in values.items() if not np.isin(column_N, (0, 1)).all()
    }

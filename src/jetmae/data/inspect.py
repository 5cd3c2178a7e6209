"""Looking at a finished dataset: is it intact (`verify_dataset`), and what is in it (`dataset_statistics`)?

Shapes: N jets, C channels, H rows, W columns, nnz stored values.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import xxhash
from numpy.typing import NDArray

from jetmae.data.integrity import wrong_hash
from jetmae.data.manifest import Manifest, ShardEntry, read_manifest
from jetmae.data.normalisation import ThinnedSample, stored_values_of, values_by_channel
from jetmae.data.shards import JetDataset, Shard, SparseJets
from jetmae.data.sparse import densify, image_of_value
from jetmae.errors import DataError
from jetmae.files import make_folder
from jetmae.progress import Progress

if TYPE_CHECKING:
    from matplotlib.colors import SymLogNorm
    from rich.table import Table

MAX_LINES_PER_KIND = 20  # of one shard: a file full of NaN needs no million lines
EXAMPLE_JETS = 8
Identities = tuple[Shard, NDArray[np.uint64]]  # of a shard, and the hash of each of its images


# ---- verify


def verify_dataset(folder: Path) -> list[str]:
    """Check a dataset from its manifest down to every value. Returns one line per problem, none if all is well.

    Raises:
        DataError: there is no manifest, or it cannot be understood.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    problems = [*_problems_of_manifest(manifest), *_unlisted_shards(folder, manifest)]
    identities: list[Identities] = []
    entries = [(split, entry) for split, entries in manifest.splits.items() for entry in entries]
    dense = len({entry.tower_channels for _, entry in entries}) > 1  # then equal jets may be stored differently
    with Progress("verifying", sum(entry.jets for _, entry in entries)) as progress:
        for _, entry in entries:
            shard, found = _open_and_check(folder, entry, manifest)
            problems += found
            if shard is not None:
                identities.append((shard, _hashes_of_jets(shard, manifest, dense)))
            progress.advance(entry.jets)
    return problems + list(_duplicates(identities))


def _open_and_check(folder: Path, entry: ShardEntry, manifest: Manifest) -> tuple[Shard | None, list[str]]:
    """The shard if its images can be compared with others, and its problems."""
    try:
        shard = Shard(folder / entry.file, entry, manifest)
    except DataError as error:
        return None, [str(error)]
    problems = _problems_of_shard(shard, manifest)
    return None if problems else shard, problems


def _problems_of_manifest(manifest: Manifest) -> Iterator[str]:
    channels = manifest.image_shape[0]
    for name in ("channels", "units"):
        if len(getattr(manifest, name)) != channels:
            yield f"manifest: {len(getattr(manifest, name))} {name} for {channels} channels, expected one each"
    for split in manifest.splits:
        if (split == "train" or split.endswith("_train")) and split not in manifest.normalisation:
            yield f"manifest: no normalisation constants of {split}; convert again"
    files = [entry.file for entries in manifest.splits.values() for entry in entries]
    for file in sorted({file for file in files if files.count(file) > 1}):
        yield f"manifest: {file} is listed {files.count(file)} times, expected once"


def _unlisted_shards(folder: Path, manifest: Manifest) -> Iterator[str]:
    listed = {entry.file for entries in manifest.splits.values() for entry in entries}
    for path in sorted(folder.glob("*.h5")):
        if path.name not in listed:
            yield f"{path.name}: not in the manifest, so no run reads it: remove it, or give it back its name"


def _problems_of_shard(shard: Shard, manifest: Manifest) -> list[str]:
    problem = wrong_hash(shard.path, shard.entry)
    problems = [problem] if problem else []
    problems += _problems_of_hashes(shard)
    for what, bad in _bad_values(shard, manifest):
        problems += _lines(shard, what, bad)
    return problems


def _problems_of_hashes(shard: Shard) -> Iterator[str]:
    """Which arrays changed. HDF5 may parse this file: its header is in the head, which was found to be whole."""
    import h5py

    with h5py.File(shard.path, "r", locking=False) as file:
        for name in shard.entry.offsets:
            if xxhash.xxh3_64_hexdigest(np.ascontiguousarray(file[name][()]).data) != file[name].attrs.get("xxh3_64"):
                yield f"{shard.path.name}: the bytes of /{name} are not those that were written (xxh3_64 differs)"


def _bad_values(shard: Shard, manifest: Manifest) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """(what is wrong, which stored values are) for each rule of the shard format."""
    channels, height, width = manifest.image_shape
    pixels = height * width
    image, place = image_of_value(shard.count_NC), shard.index.astype(np.int64)
    towers = pixels // manifest.tower_size**2 if manifest.tower_size else 0
    per_tower = np.isin(image % channels, shard.entry.tower_channels)
    in_range = np.where(per_tower, (place >= pixels) & (place < pixels + towers), place < pixels)
    unsorted = np.zeros(len(place), dtype=bool)
    unsorted[1:] = (np.diff(image) == 0) & (np.diff(place) <= 0)
    yield "is NaN or infinite", ~np.isfinite(shard.value)
    yield "is 0, and zeros are not stored", shard.value == 0
    yield "has a place outside its image", ~in_range
    yield "has a place out of order", unsorted


def _lines(shard: Shard, what: str, bad: NDArray[np.bool_]) -> Iterator[str]:
    """One line per jet and channel with bad values."""
    channels = shard.count_NC.shape[1]
    images, first = np.unique(image_of_value(shard.count_NC)[bad], return_index=True)
    stored = np.flatnonzero(bad)[first]
    for image, at in list(zip(images, stored, strict=True))[:MAX_LINES_PER_KIND]:
        jet, channel = divmod(int(image), channels)
        yield (
            f"{shard.path.name}: jet {jet} (source row {shard.row[jet]}), channel {channel}: value"
            f" {shard.value[at]} at place {shard.index[at]} {what}"
        )
    if len(images) > MAX_LINES_PER_KIND:
        yield f"{shard.path.name}: {len(images) - MAX_LINES_PER_KIND} more images with a value that {what}"


def _hashes_of_jets(shard: Shard, manifest: Manifest, dense: bool) -> NDArray[np.uint64]:
    """A hash of each image (N,); 0 for empty images, which are all alike and no sign of a leak."""
    hashes = np.zeros(len(shard), dtype=np.uint64)
    for jet in np.flatnonzero(np.diff(shard.indptr)):
        part = slice(shard.indptr[jet], shard.indptr[jet + 1])
        image = SparseJets(
            shard.count_NC[jet : jet + 1], shard.index[part], shard.value[part], shard.row[jet : jet + 1]
        )
        if dense:
            content = densify(image, manifest.image_shape, manifest.tower_size).tobytes()
        else:
            content = image.count_NC.tobytes() + image.index.tobytes() + image.value.tobytes()
        hashes[jet] = xxhash.xxh3_64_intdigest(content)
    return hashes


def _duplicates(identities: list[Identities]) -> Iterator[str]:
    """One line for each jet whose image occurred before, in whatever split."""
    if not identities:
        return
    hashes = np.concatenate([hashes for _, hashes in identities])
    first_id = np.concatenate([[0], np.cumsum([len(hashes) for _, hashes in identities])])
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    original = first[inverse]
    copies = np.flatnonzero((original != np.arange(len(hashes))) & (hashes != 0))
    for copy in copies[:MAX_LINES_PER_KIND]:
        places = [_jet_of_id(identities, first_id, int(number)) for number in (copy, original[copy])]
        yield f"{places[0]} is the same image as {places[1]}"
    if len(copies) > MAX_LINES_PER_KIND:
        yield f"{len(copies) - MAX_LINES_PER_KIND} more jets are copies of others"


def _jet_of_id(identities: list[Identities], first_id: NDArray[np.int64], number: int) -> str:
    which = int(np.searchsorted(first_id, number, side="right")) - 1
    shard, jet = identities[which][0], number - int(first_id[which])
    return f"{shard.path.name}: jet {jet} (source row {shard.row[jet]})"


# ---- statistics


def dataset_statistics(folder: Path, pictures: Path | None = None) -> None:
    """Print a table for each split; with `pictures`, write example images of every channel there.

    Raises:
        DataError: the dataset is damaged.
        JetmaeError: `pictures` cannot be written.
    """
    from rich.console import Console

    # Names may hold brackets and colons, which are no markup here.
    manifest, console = read_manifest(Path(folder)), Console(markup=False, emoji=False)
    datasets = {split: JetDataset(Path(folder), split, manifest=manifest) for split in manifest.splits}
    for split, dataset in datasets.items():
        console.print(_table(split, dataset))
    if pictures is not None:
        for path in write_pictures(datasets, make_folder(Path(pictures))):
            console.print(f"wrote {path}", highlight=False, soft_wrap=True)


class ChannelStatistics(TypedDict):
    """Occupancy is the fraction of pixels that are not 0; the rest describes those pixels, None if there are none."""

    occupancy: float
    min: float | None
    median: float | None
    mean: float | None
    max: float | None


def channel_statistics(dataset: JetDataset) -> list[ChannelStatistics]:
    """What the pixels of each channel hold."""
    manifest = dataset.manifest
    channels, height, width = manifest.image_shape
    samples = [ThinnedSample(stored) for stored in stored_values_of(dataset.shards)]
    pixels_filled, total = np.zeros(channels), np.zeros(channels)
    lowest, highest = np.full(channels, np.inf), np.full(channels, -np.inf)
    for shard in dataset.shards:
        for channel, (values, weights) in enumerate(values_by_channel(shard, height * width, manifest.tower_size)):
            samples[channel].add(values, weights)
            pixels_filled[channel] += weights.sum()
            total[channel] += (values * weights).sum()
            lowest[channel] = min(lowest[channel], values.min(initial=np.inf))
            highest[channel] = max(highest[channel], values.max(initial=-np.inf))
    return [
        {
            "occupancy": pixels_filled[channel] / (len(dataset) * height * width),
            "min": lowest[channel] if pixels_filled[channel] else None,
            "median": samples[channel].median(),
            "mean": total[channel] / pixels_filled[channel] if pixels_filled[channel] else None,
            "max": highest[channel] if pixels_filled[channel] else None,
        }
        for channel in range(channels)
    ]


def _table(split: str, dataset: JetDataset) -> "Table":
    from rich.table import Table

    manifest = dataset.manifest
    table = Table(title=f"{split}: {_summary(dataset)}", title_justify="left")
    table.add_column("channel")
    for heading in ("unit", "occupancy", "min", "median", "mean", "max", "per tower"):
        table.add_column(heading, justify="right", no_wrap=True)
    for channel, row in enumerate(channel_statistics(dataset)):
        known = (row["min"], row["median"], row["mean"], row["max"])
        numbers = ["-" if number is None else f"{number:.3g}" for number in known]
        towers = sum(channel in shard.entry.tower_channels for shard in dataset.shards)
        occupancy = f"{100 * row['occupancy']:.3f} %"
        name, unit = manifest.channels[channel], manifest.units[channel]
        table.add_row(name, unit, occupancy, *numbers, f"{towers}/{len(dataset.shards)}")
    return table


def _summary(dataset: JetDataset) -> str:
    stored_bytes = sum(shard.entry.bytes for shard in dataset.shards)
    parts = [f"{len(dataset):,} jets", f"{stored_bytes / len(dataset) / 1000:.1f} KB per jet"]
    label_N = dataset.column("label")
    classes = dataset.manifest.classes
    if label_N is None or classes is None:
        parts.append("no labels")
    else:
        counts = np.bincount(label_N, minlength=len(classes))
        parts += [f"{name} {count:,}" for name, count in zip(classes, counts, strict=True)]
    empty = sum(int((np.diff(shard.indptr) == 0).sum()) for shard in dataset.shards)
    return ", ".join([*parts, f"{empty} empty images"] if empty else parts)


def write_pictures(datasets: dict[str, JetDataset], folder: Path) -> Iterator[Path]:
    """Write one PNG per split and channel with the first jets of each class. Yields the paths."""
    for split, dataset in datasets.items():
        ids = example_ids(dataset.column("label"), len(dataset))
        images_BCHW = densify(dataset.gather(ids), dataset.manifest.image_shape, dataset.manifest.tower_size)
        for channel, name in enumerate(dataset.manifest.channels):
            path = folder / f"{split}-{channel}-{re.sub('[^A-Za-z0-9]+', '_', name)}.png"
            _draw(images_BCHW[:, channel], dataset, ids, channel, path)
            yield path


def example_ids(label_N: NDArray[np.int64] | None, jets: int) -> NDArray[np.int64]:
    """The first EXAMPLE_JETS jets, in equal parts of each class where there are labels."""
    if label_N is None:
        return np.arange(min(jets, EXAMPLE_JETS))
    classes = np.unique(label_N)
    each = max(1, EXAMPLE_JETS // len(classes))
    return np.concatenate([np.flatnonzero(label_N == number)[:each] for number in classes])


def _draw(
    images_BHW: NDArray[np.float32], dataset: JetDataset, ids: NDArray[np.int64], channel: int, path: Path
) -> None:
    from matplotlib.figure import Figure

    mosaic, corners = _mosaic(images_BHW)
    figure = Figure(figsize=(1 + mosaic.shape[1] / 45, mosaic.shape[0] / 45), dpi=90)
    axis = figure.add_axes((0.02, 0.02, 0.86, 0.96))  # one set of axes for all jets: each costs 50 ms
    axis.set_axis_off()
    norm, colours = _scale(images_BHW)
    drawn = axis.imshow(mosaic, norm=norm, cmap=colours, interpolation="nearest")
    label_N, classes = dataset.column("label"), dataset.manifest.classes
    for (row, column), number in zip(corners, ids, strict=True):
        name = f"jet {number}" + (f", {classes[label_N[number]]}" if label_N is not None and classes else "")
        axis.text(column, row - 2, name, fontsize=8, parse_math=False)  # a dollar in a name is no mathematics
    unit = dataset.manifest.units[channel]
    bar = figure.add_axes((0.9, 0.1, 0.015, 0.8))
    figure.colorbar(drawn, cax=bar).set_label(f"{dataset.manifest.channels[channel]} [{unit}]", parse_math=False)
    figure.savefig(path)


def _mosaic(images_BHW: NDArray[np.float32]) -> tuple[NDArray[np.float64], list[tuple[int, int]]]:
    """The images in rows of four with room for a title above each, and where each begins (row, column)."""
    jets, height, width = images_BHW.shape
    columns, margin = min(4, jets), 12
    rows = -(-jets // columns)
    mosaic = np.full((rows * (height + margin), columns * (width + margin)), np.nan)
    tiles = [divmod(jet, columns) for jet in range(jets)]
    corners = [(row * (height + margin) + margin, column * (width + margin)) for row, column in tiles]
    for (row, column), image in zip(corners, images_BHW, strict=True):
        mosaic[row : row + height, column : column + width] = image[::-1]  # eta upwards, in simulated jets
    return mosaic, corners


def _scale(images: NDArray[np.float32]) -> tuple["SymLogNorm", str]:
    """A colour scale that shows small values: linear near 0, logarithmic beyond, two-sided if values are signed."""
    from matplotlib.colors import SymLogNorm

    filled = np.abs(images[images != 0])
    largest, typical = (float(filled.max()), float(np.median(filled))) if len(filled) else (1.0, 0.1)
    if (images < 0).any():
        return SymLogNorm(typical, vmin=-largest, vmax=largest), "RdBu_r"
    return SymLogNorm(typical, vmin=0, vmax=largest), "viridis"

"""Small source files of every known layout, with exactly the keys, shapes and types that they have in the wild."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

HCAL = 4
TOWER_SIZE = 5


@dataclass(frozen=True)
class Truth:
    """What a file holds: images_NCHW float32, label (N,) of 0 and 1, mass and pT (N,) in GeV."""

    images: NDArray[np.float32]
    label: NDArray[np.int64]
    mass: NDArray[np.float32]
    pt: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.images)


def make_truth(jets: int, *, channels: int = 8, side: int = 125, seed: int = 0) -> Truth:
    """Sparse images of both signs; channel 4 is constant within towers of 5 x 5 pixels."""
    generator = np.random.default_rng(seed)
    images = generator.normal(size=(jets, channels, side, side)).astype(np.float32)
    images[generator.random(images.shape) > 0.02] = 0
    if channels > HCAL:
        towers = generator.exponential(size=(jets, side // TOWER_SIZE, side // TOWER_SIZE)).astype(np.float32)
        towers[generator.random(towers.shape) > 0.1] = 0
        images[:, HCAL] = towers.repeat(TOWER_SIZE, axis=1).repeat(TOWER_SIZE, axis=2)
    label = np.arange(jets) % 2
    mass, pt = generator.normal(142, 20, jets), generator.normal(520, 50, jets)
    return Truth(images, generator.permutation(label), mass.astype(np.float32), pt.astype(np.float32))


def channels_last(images: NDArray) -> NDArray:
    return np.ascontiguousarray(np.moveaxis(images, 1, 3))


def unlabelled(path: Path, truth: Truth) -> None:
    with h5py.File(path, "w") as file:
        file["jet"] = channels_last(truth.images)


def labelled(path: Path, truth: Truth) -> None:
    with h5py.File(path, "w") as file:
        file["jet"] = channels_last(truth.images)
        file["Y"] = truth.label.astype(np.float32)[:, None]


def labelled_with_mass(path: Path, truth: Truth) -> None:
    labelled(path, truth)
    with h5py.File(path, "a") as file:
        file["m"] = truth.mass
        file["pT"] = truth.pt[:, None]


def boosted_top(path: Path, truth: Truth) -> None:
    _split_file(path, truth, np.stack([truth.label, truth.mass, truth.pt], axis=1))


def quark_gluon_splits(path: Path, truth: Truth) -> None:
    _split_file(path, truth, np.stack([truth.pt, truth.mass, truth.label], axis=1))


def _split_file(path: Path, truth: Truth, meta: NDArray) -> None:
    half, rest = len(truth) // 2, len(truth) * 3 // 4
    with h5py.File(path, "w") as file:
        for split, rows in (("train", slice(0, half)), ("validation", slice(half, rest)), ("test", slice(rest, None))):
            images = channels_last(truth.images[rows])
            file.create_dataset(f"{split}_jet", data=images, compression="gzip", chunks=(1, *images.shape[1:]))
            file[f"{split}_meta"] = meta[rows].astype(np.float32)


def three_channels(path: Path, truth: Truth) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("X_jets", data=channels_last(truth.images[:, :3]), compression="gzip", chunks=True)
        file["y"], file["m0"], file["pt"] = truth.label.astype(np.float64), truth.mass, truth.pt


def parquet_flat(path: Path, truth: Truth) -> None:
    _parquet(path, channels_last(truth.images).reshape(len(truth), -1).tolist(), {"y": truth.label.astype(float)})


def parquet_nested(path: Path, truth: Truth) -> None:
    columns = {"pt": truth.pt, "m0": truth.mass, "is_signal": truth.label.astype(float)}
    _parquet(path, truth.images[:, :3].tolist(), columns)


def _parquet(path: Path, images: list, columns: dict) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table({"X_jets": images, **columns})
    parquet.write_table(table, path, compression="snappy", row_group_size=1)


def ours(path: Path, truth: Truth) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("jet", data=truth.images, compression="gzip", chunks=(1, *truth.images.shape[1:]))
        file["m"], file["pT"], file["Y"] = truth.mass, truth.pt, truth.label.astype(np.uint8)
        file.attrs["channels"] = ["pT", "d0", "dz", "ECAL", "HCAL", "B1", "B2", "B3"][: truth.images.shape[1]]
        file.attrs["units"] = ["GeV", "cm", "cm", "GeV", "GeV", "hits", "hits", "hits"][: truth.images.shape[1]]
        file.attrs["classes"] = ["qcd", "top"]


@dataclass(frozen=True)
class Layout:
    """A way to write a file, and what of the truth it keeps."""

    write: Callable[[Path, Truth], None]
    suffix: str = "h5"
    channels: int = 8
    label: bool = True
    mass: bool = True
    own_splits: bool = False


LAYOUTS = {
    "unlabelled": Layout(unlabelled, label=False, mass=False),
    "labelled": Layout(labelled, mass=False),
    "labelled_with_mass": Layout(labelled_with_mass),
    "boosted_top": Layout(boosted_top, own_splits=True),
    "quark_gluon_splits": Layout(quark_gluon_splits, own_splits=True),
    "three_channels": Layout(three_channels, "hdf5", channels=3),
    "parquet_flat": Layout(parquet_flat, "parquet", mass=False),
    "parquet_nested": Layout(parquet_nested, "parquet", channels=3),
    "ours": Layout(ours),
}

"""What a finished run says of each jet: the .npz files in evaluation/ of a run folder.

The arrays are a public contract, written in the docstrings below and in docs/run-folder.md. A file may be missing,
because reports are also made while runs are going on. A file that is there must be readable.

Shapes: n evaluated jets, E example jets, C channels, H W pixels.
"""

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetmae.errors import DataError

Arrays = dict[str, NDArray[Any]]

MASKS = ("patches", "patch_groups", "groups")  # what is hidden: tasks/masking.py
SPACES = ("log_sums", "sums", "pixels")  # in which errors are counted
# Who predicts the hidden values, and the array of its squared errors.
PREDICTORS = {
    "network": "sse",
    "ridge": "sse_of_ridge",
    "scaled mean image": "sse_of_scaled_mean_image",
    "mean image": "sse_of_mean_image",
}


@dataclass(frozen=True)
class Predictions:
    """`predictions_<split>.npz`: one entry per jet."""

    score: NDArray[np.float32]  # probability of class 1
    label: NDArray[np.int8]
    sample_id: NDArray[np.int64]  # the same jet has the same number in every run
    classes: tuple[str, str]
    pt_gev: NDArray[np.float32] | None = None
    mass_gev: NDArray[np.float32] | None = None
    score_of_boosted_trees: NDArray[np.float32] | None = None  # of a probe of the observables


@dataclass(frozen=True)
class Reconstruction:
    """`reconstruction_<split>.npz`: example jets, and sums over the evaluated jets."""

    channels: tuple[str, ...]
    units: tuple[str, ...]
    image: NDArray[np.float32]  # (E, C, H, W) in source units
    reconstruction: NDArray[np.float32]  # (E, C, H, W) what the network predicted, in source units
    mask: NDArray[np.bool_]  # (E, H, W) True = hidden from the encoder
    sse: NDArray[np.float64]  # (n, C) over the masked pixels of each jet, in the space of the loss
    sum: NDArray[np.float64]  # (n, C)
    sum_of_squares: NDArray[np.float64]  # (n, C)
    count: NDArray[np.int64]  # (n,) masked pixels per channel, or (n, C)
    mean_image: NDArray[np.float32]  # (C, H, W) in source units, over the pictured jets, where masked
    mean_reconstruction: NDArray[np.float32]  # (C, H, W)
    loss_space: str  # what was done to the values before the loss
    sse_of_mean_image: NDArray[np.float64] | None = None  # (n, C) as `sse`, of the mean training jet
    pictured_jets: int | None = None  # number of jets that the mean images are made from
    label: NDArray[np.int8] | None = None  # (E,)
    classes: tuple[str, str] | None = None
    mask_of_channels: NDArray[np.bool_] | None = None  # (E, C, H, W) where channels are hidden one by one

    @property
    def hidden(self) -> NDArray[np.bool_]:
        """(E, C, H, W) True = hidden from the encoder."""
        if self.mask_of_channels is not None:
            return self.mask_of_channels
        return np.broadcast_to(self.mask[:, None], self.image.shape)


@dataclass(frozen=True)
class HiddenSums:
    """`<mask>/<space>/<what>` of a reconstruction: sums over what one kind of mask hides, each (n, C) float64."""

    mask: str  # one of MASKS
    space: str  # one of SPACES
    channels: tuple[str, ...]
    sum: NDArray[np.float64]
    sum_of_squares: NDArray[np.float64]
    count: NDArray[np.float64]
    sse: Mapping[str, NDArray[np.float64]]  # predictor -> squared errors; those of PREDICTORS that there are


@dataclass(frozen=True)
class ClosurePair:
    """`closure/<what>/truth` and `closure/<what>/reconstructed` of a reconstruction, each (n,): one number per jet."""

    what: str  # with its unit: jet_pt_gev, jet_mass_gev, bpix1_hits
    truth: NDArray[np.float64]
    reconstructed: NDArray[np.float64]


def read_predictions(path: Path) -> Predictions | None:
    """None without a file.

    Raises:
        DataError: the file is damaged or lacks an array.
    """
    arrays = _fields_in(path, Predictions)
    if arrays is None:
        return None
    values: dict[str, Any] = {**arrays, "classes": _class_names(arrays["classes"])}
    return Predictions(**values)


def read_reconstruction(path: Path) -> Reconstruction | None:
    """None without a file.

    Raises:
        DataError: the file is damaged or lacks an array.
    """
    arrays = _fields_in(path, Reconstruction)
    if arrays is None:
        return None
    values: dict[str, Any] = {**arrays, "classes": _class_names(arrays.get("classes", np.array([])))}
    values |= {key: tuple(arrays[key].astype(str).tolist()) for key in ("channels", "units")}
    values |= {key: arrays[key].item() for key in ("loss_space", "pictured_jets") if key in arrays}
    return Reconstruction(**values)


def read_hidden_sums(path: Path) -> tuple[HiddenSums, ...]:
    """For each kind of mask and each space that the file has; none without a file.

    Raises:
        DataError: the file is damaged, or arrays of one mask and space do not belong together.
    """
    prefixes = {f"{mask}/{space}/": (mask, space) for mask in MASKS for space in SPACES}
    arrays = _read_arrays(path, lambda name: name == "channels" or name.startswith(tuple(prefixes))) or {}
    found = []
    for prefix, (mask, space) in prefixes.items():
        inside = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        if inside:
            channels = tuple(arrays["channels"].astype(str).tolist())
            _check_sums(path, prefix, inside, channels)
            sse = {predictor: inside[name] for predictor, name in PREDICTORS.items() if name in inside}
            sums = {name: inside[name].astype(np.float64) for name in ("sum", "sum_of_squares", "count")}
            found.append(HiddenSums(mask, space, channels, **sums, sse=sse))
    return tuple(found)


def read_closure(path: Path) -> tuple[ClosurePair, ...]:
    """All pairs of the file, whole jets before hits; none without a file.

    Raises:
        DataError: the file is damaged, or a pair is not two lists of the same jets.
    """
    arrays = _read_arrays(path, lambda name: name.startswith("closure/")) or {}
    pairs = []
    for what in sorted({name.split("/")[1] for name in arrays}, key=lambda what: (not what.startswith("jet"), what)):
        pair = [arrays.get(f"closure/{what}/{side}") for side in ("truth", "reconstructed")]
        if pair[0] is None or pair[1] is None or pair[0].ndim != 1 or pair[0].shape != pair[1].shape:
            raise DataError(f"{path}: closure/{what} is not one truth and one reconstructed per jet; {_again(path)}")
        pairs.append(ClosurePair(what, pair[0].astype(np.float64), pair[1].astype(np.float64)))
    return tuple(pairs)


def _check_sums(path: Path, prefix: str, inside: Arrays, channels: tuple[str, ...]) -> None:
    missing = [name for name in ("sum", "sum_of_squares", "count", "sse") if name not in inside]
    if missing:
        raise DataError(f"{path} lacks {', '.join(prefix + name for name in missing)}; {_again(path)}")
    expected = (len(inside["sum"]), len(channels))
    for name, array in inside.items():
        if array.shape != expected:
            raise DataError(f"{path}: {prefix}{name} is {array.shape}, expected {expected}; {_again(path)}")


def _fields_in(path: Path, expected: type[Predictions] | type[Reconstruction]) -> Arrays | None:
    """The arrays of an .npz that `expected` has fields for, others left out; None without a file."""
    names = [field.name for field in fields(expected)]
    required = [field.name for field in fields(expected) if field.default is not None]
    arrays = _read_arrays(path, names.__contains__)
    missing = [name for name in required if arrays is not None and name not in arrays]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}; {_again(path)}")
    return arrays


def _read_arrays(path: Path, is_wanted: Callable[[str], bool]) -> Arrays | None:
    if not path.is_file():
        return None
    try:
        # Opened here: numpy leaves the file of a damaged archive open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if is_wanted(name)}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is damaged ({error}); {_again(path)}") from error


def _again(path: Path) -> str:
    return f"to evaluate again, delete {path.parents[1]}/COMPLETED and give the run's launch command"


def _class_names(classes: NDArray[Any]) -> tuple[str, str]:
    """The data's names of class 0 and 1, or numbers where it does not say."""
    names = tuple(classes.astype(str).tolist())
    return names if len(names) == 2 else ("class 0", "class 1")

"""The dataset that is used when none is typed: made from the shipped sample when it is needed first."""

import sys
from pathlib import Path

from jetmae.command_line import typed
from jetmae.config import Experiment
from jetmae.data.convert.convert import convert
from jetmae.data.manifest import MANIFEST_NAME
from jetmae.errors import DataError
from jetmae.files import cannot_write, make_folder
from jetmae.launch.folder_aside import folder_aside

SPLITS = ("unlabelled_train", "unlabelled_test", "train", "validation", "test")
CLONE = Path(__file__).resolve().parents[3]  # of an installed package, some folder without a sample


def is_default(experiment: Experiment) -> bool:
    """Whether nobody chose the data: neither who typed the command nor who wrote the preset."""
    return "path" not in experiment.data.model_fields_set


def provide_default_dataset(dataset: Path) -> None:
    """Make the dataset from the sample, if it is not there.

    Raises:
        DataError: there is no sample, or something else is in the dataset's place.
        JetmaeError: it cannot be written.
    """
    if (dataset / MANIFEST_NAME).exists():
        return
    sample = next((folder for folder in (CLONE / "sample", Path("sample")) if has_sample(folder)), None)
    if sample is None:
        raise DataError(
            f"no dataset in {dataset}, the default, and no sample/ of a clone to make it from: make one with"
            f" `{typed('data simulate jets.h5')}` and `{typed('data convert jets.h5 --out data/mine')}`, then add"
            " data.path=data/mine"
        )
    if dataset.exists() and (not dataset.is_dir() or any(dataset.iterdir())):
        raise DataError(
            f"{dataset} is no dataset: expected {MANIFEST_NAME} in it, or nothing, so that it is made from {sample};"
            " move it away, or add data.path=DIR"
        )
    print(f"{dataset} is made from {sample}, once", file=sys.stderr)  # scripts read what --freeze prints
    convert_sample(sample, dataset)


def has_sample(folder: Path) -> bool:
    """Whether the files of the shipped sample lie in a folder."""
    return all((folder / f"{split}.h5").is_file() for split in SPLITS)


def convert_sample(sample: Path, dataset: Path) -> None:
    """Convert aside. If another launch has been faster, its dataset stays, which may be in use already."""
    make_folder(dataset.parent)
    try:
        with folder_aside(dataset) as aside:
            convert([f"{split}={sample / split}.h5" for split in SPLITS], aside / dataset.name)
            (aside / dataset.name).rename(dataset)
    except OSError as error:
        if not (dataset / MANIFEST_NAME).exists():
            raise cannot_write(dataset, error) from error

"""Weights that leave a run: one safetensors file that says by itself what it is.

The metadata hold the task, the network, shape, channels and units of the images, and the normalisation constants, so
that whoever starts from these weights sees the pixels exactly as they did.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from jetmae.data.manifest import Manifest, check_same_images
from jetmae.data.normalisation import Normalisation
from jetmae.errors import JetmaeError
from jetmae.files import cannot_write, make_lasting, written_aside

METADATA = "jetmae"


@dataclass(frozen=True)
class WeightsInfo:
    """What belongs to a weight file."""

    task: str
    model: dict[str, Any]
    image_shape: tuple[int, int, int]
    channels: tuple[str, ...]
    units: tuple[str, ...]
    normalisation: Normalisation
    step: int
    score: float | None


def write_weights(path: Path, weights: dict[str, Tensor], info: WeightsInfo) -> None:
    """Replace a weight file, or leave it as it is.

    Raises:
        JetmaeError: it cannot be written.
    """
    about = json.dumps(asdict(info))
    # One entry: safetensors writes several in an order of its own, and equal weights are to give equal files.
    metadata = {METADATA: json.dumps({"info": about, "xxh3_128": digest_of(weights, about)})}
    try:
        make_lasting(path.parent)
        with written_aside(path) as aside:
            aside.write_bytes(save(weights, metadata=metadata))  # save_file would keep it from all but the owner
    except OSError as error:
        raise cannot_write(path, error) from error


def read_weights(path: Path) -> tuple[dict[str, Tensor], WeightsInfo]:
    """Read a weight file of jetmae.

    Raises:
        JetmaeError: missing, damaged, or not written by this jetmae.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()[METADATA])
            about, digest = metadata["info"], metadata["xxh3_128"]
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise JetmaeError(
            f"{path} is not a weight file of jetmae ({error}): expected one of a run's weights/"
        ) from error
    if digest != digest_of(weights, about):
        raise JetmaeError(f"{path} is damaged, its content is not what was written: restore it, or train that run anew")
    return weights, _info_of(path, json.loads(about))


def _info_of(path: Path, content: dict[str, Any]) -> WeightsInfo:
    """JSON knows no tuples, and an older file may say less."""
    if untold := [field.name for field in fields(WeightsInfo) if field.name not in content]:
        raise JetmaeError(
            f"{path} does not tell its {', '.join(untold)}: an older jetmae wrote it; train that run anew"
        )
    constants: dict[str, Any] = content["normalisation"]
    content["normalisation"] = Normalisation(
        constants["transform"], **{name: tuple(constants[name]) for name in ("scale", "mean", "std")}
    )
    for name in ("image_shape", "channels", "units"):
        content[name] = tuple(content[name])
    return WeightsInfo(**content)


def digest_of(weights: dict[str, Tensor], about: str) -> str:
    """A hash over names, values and what is said about them: the format has none of its own."""
    digest = xxhash.xxh3_128(about.encode())
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().data)
    return digest.hexdigest()


def load_encoder(encoder: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy the encoder's part of a network's weights, every tensor of it."""
    prefix = "encoder."
    encoder.load_state_dict({name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)})


def check_fits(info: WeightsInfo, model: dict[str, Any], manifest: Manifest, *, path: Path) -> None:
    """The encoder of the weights must be the one that is configured, and have seen images like those of the data.

    Raises:
        JetmaeError: names every setting of the model that differs, or how the images do.
    """
    ignored = "drop_path"  # a regulariser, not a shape
    trained = {"tokens": "all", **info.model}  # version 0.1.0 read all patches, and does not say so
    different = [key for key in model if key != ignored and model[key] != trained.get(key)]
    if different:
        listed = ", ".join(f"model.{key} is {trained.get(key)}, configured {model[key]}" for key in different)
        raise JetmaeError(f"{path} has another architecture: {listed}; give the same settings as the pretrain run")
    check_same_images(info, manifest, where=str(path))

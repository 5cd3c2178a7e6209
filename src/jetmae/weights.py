"""Weights that leave a run: one safetensors file that says by itself what it is.

The metadata hold the task, the network, the shape of the images and the normalisation constants, so that whoever starts
from these weights sees the pixels exactly as they did.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from jetmae.data.normalisation import Normalisation
from jetmae.errors import JetmaeError
from jetmae.files import cannot_write, make_lasting, written_aside

METADATA = "jetmae"


@dataclass(frozen=True)
class WeightsInfo:
    """What belongs to a weight file."""

    task: str
    model: dict
    image_shape: tuple[int, int, int]
    channels: tuple[str, ...]
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
        JetmaeError: missing, damaged, or not written by jetmae.
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
    content = json.loads(about)
    constants = content["normalisation"]
    content["normalisation"] = Normalisation(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in constants.items()}
    )
    for name in ("image_shape", "channels"):
        content[name] = tuple(content[name])
    return weights, WeightsInfo(**content)


def digest_of(weights: dict[str, Tensor], about: str) -> str:
    """A hash over names, values and what is said about them: the format has none of its own."""
    digest = xxhash.xxh3_128(about.encode())
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy())
    return digest.hexdigest()


def load_encoder(encoder: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy the encoder's part of a network's weights, every tensor of it."""
    prefix = "encoder."
    encoder.load_state_dict({name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)})


def check_same_architecture(expected: dict, info: WeightsInfo, *, image_shape: tuple[int, ...], path: Path) -> None:
    """The encoder of the weights must be the one that is configured, on images of the same kind.

    Raises:
        JetmaeError: names every setting that differs.
    """
    wanted = {**{f"model.{key}": value for key, value in expected.items()}, "image shape": tuple(image_shape)}
    found = {**{f"model.{key}": value for key, value in info.model.items()}, "image shape": info.image_shape}
    ignored = "model.drop_path"  # a regulariser, not a shape
    different = [key for key in wanted if key != ignored and wanted[key] != found.get(key)]
    if different:
        listed = ", ".join(f"{key} is {found.get(key)}, configured {wanted[key]}" for key in different)
        raise JetmaeError(f"{path} has another architecture: {listed}; give the same settings as the pretrain run")

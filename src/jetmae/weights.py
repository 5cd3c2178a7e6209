"""Weights that leave a run: one safetensors file that says by itself what it is.

The metadata hold the experiment, the shape of the images and the normalisation constants, so that whoever starts from
these weights sees the pixels exactly as they did.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from jetmae.data.normalisation import Normalisation
from jetmae.errors import JetmaeError
from jetmae.files import written_aside


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
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        save_file(weights, aside, metadata={"jetmae": json.dumps(asdict(info))})


def read_weights(path: Path) -> tuple[dict[str, Tensor], WeightsInfo]:
    """Read a weight file of jetmae.

    Raises:
        JetmaeError: missing, damaged, or not written by jetmae.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {})["jetmae"]
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError) as error:
        raise JetmaeError(
            f"{path} is not a weight file of jetmae ({error}): expected one of a run's weights/"
        ) from error
    content = json.loads(metadata)
    content["normalisation"] = Normalisation(**content["normalisation"])
    for name in ("image_shape", "channels"):
        content[name] = tuple(content[name])
    return weights, WeightsInfo(**content)


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

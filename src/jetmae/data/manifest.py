"""manifest.json: everything about a dataset but the jets themselves.

It lists the shards of each split with what is needed to map them without parsing HDF5, names channels, units and
classes, and holds the normalisation constants. Its first key is the SHA-256 of the rest of the file: what the shards
are checked against must not itself be damaged.

Standard library only: a supervisor reads it in the seconds before a node is taken away.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from jetmae.command_line import typed
from jetmae.errors import DataError, JetmaeError
from jetmae.files import write_text

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = "jetmae-dataset"
FORMAT_VERSION = 2  # of manifest and shards together
SEAL = "sha256"


@dataclass(frozen=True)
class ShardEntry:
    """What the manifest knows of one shard."""

    file: str
    jets: int
    nonzeros: int
    bytes: int
    tower_channels: tuple[int, ...]
    offsets: dict[str, int]
    """Where each array begins in the file, in bytes; type and shape follow from its name."""
    head_bytes: int
    """The file up to here is its head: the HDF5 header and all arrays but /index and /value."""
    head_xxh3_64: str
    sha256: str
    """Of the whole file."""


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json.

    `normalisation[split][transform]` holds per-channel lists `scale`, `mean`, `std`; see data/normalisation.py.
    """

    image_shape: tuple[int, int, int]
    channels: tuple[str, ...]
    units: tuple[str, ...]
    classes: tuple[str, ...] | None
    tower_size: int
    splits: dict[str, list[ShardEntry]]
    normalisation: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def jets(self, split: str) -> int:
        return sum(entry.jets for entry in self.splits[split])


class Images(Protocol):
    """What images are: a manifest says it, and so does whatever was trained on them."""

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    @property
    def channels(self) -> tuple[str, ...]: ...

    @property
    def units(self) -> tuple[str, ...]: ...


def check_same_images(trained_on: Images, manifest: Manifest, *, where: str) -> None:
    """Weights know a channel by its place and its values by their size: both have to mean what they meant in training.

    Raises:
        JetmaeError: shape, channels or units differ; names both and what was trained there, `where`.
    """
    for name in ("image_shape", "channels", "units"):
        theirs, ours = getattr(trained_on, name), getattr(manifest, name)
        if theirs != ours:
            theirs, ours = (", ".join(map(str, values)) for values in (theirs, ours))
            rename = "" if name == "image_shape" else f"; if only the names differ, convert again with --{name}"
            raise JetmaeError(
                f"{where} was trained on {name} ({theirs}), these data have ({ours}): pretrain on data like these"
                + rename
            )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Make `folder` a dataset: the last file to be written."""
    header = {"format": MANIFEST_FORMAT, "format_version": FORMAT_VERSION}
    write_text(folder / MANIFEST_NAME, sealed({**header, **asdict(manifest)}))


def read_manifest(folder: Path) -> Manifest:
    """Read manifest.json.

    Raises:
        DataError: the file is missing, is not JSON, was written by another format version, or changed afterwards.
    """
    path = folder / MANIFEST_NAME
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
    except FileNotFoundError:
        raise DataError(
            f"no dataset in {folder}: expected {MANIFEST_NAME} there; make one with:"
            f" {typed('data convert SOURCE --out', folder)}"
        ) from None
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read ({error}); convert the source again") from error
    found = (content.pop("format", None), content.pop("format_version", None)) if isinstance(content, dict) else None
    if found != (MANIFEST_FORMAT, FORMAT_VERSION):
        raise DataError(f"{path} has format {found}, expected {(MANIFEST_FORMAT, FORMAT_VERSION)}; convert again")
    if not _is_sealed(text, content.pop(SEAL, None)):
        raise DataError(
            f"{path} is not as it was written (its SHA-256 differs): damaged or edited; restore it from a copy, or"
            " convert again"
        )
    return _manifest_of(path, content)


def sealed(content: dict[str, Any]) -> str:
    """Content as JSON whose first key is the SHA-256 of that text with an empty string in this key's place."""
    unsealed = json.dumps({SEAL: "", **content}, indent=1) + "\n"
    return unsealed.replace('""', f'"{_sha256(unsealed)}"', 1)


def _is_sealed(text: str, seal: object) -> bool:
    return isinstance(seal, str) and _sha256(text.replace(seal, "", 1)) == seal


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _manifest_of(path: Path, content: dict[str, Any]) -> Manifest:
    try:
        for key in ("image_shape", "channels", "units", "classes"):
            content[key] = tuple(content[key]) if content[key] is not None else None
        content["splits"] = {
            split: [ShardEntry(**{**entry, "tower_channels": tuple(entry["tower_channels"])}) for entry in entries]
            for split, entries in content["splits"].items()
        }
        return Manifest(**content)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} does not have the keys of a manifest ({error!r}); it was written by another program; convert the"
            " source again"
        ) from error

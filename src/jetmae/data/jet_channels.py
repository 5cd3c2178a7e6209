"""What images have to be, so that physics can be computed from them.

Needs no torch, because a launcher asks before a job waits.
"""

from jetmae.errors import DataError

JET_CHANNELS = {
    "track_pt": "GeV",
    "d0": "cm",
    "dz": "cm",
    "ecal": "GeV",
    "hcal": "GeV",
    "bpix1": "hits",
    "bpix2": "hits",
    "bpix3": "hits",
}
"""Channels that observables are computed from, by name and in any order, and their units."""
TOWER_PIXELS = 5  # a tower of the hadron calorimeter is so many pixels wide


def check_jet_channels(channels: tuple[str, ...], units: tuple[str, ...]) -> None:
    """Images need these channels in these units: a value that was scaled image by image has no mass any more.

    Raises:
        DataError: a channel is missing or has another unit; names what was found and what was expected.
    """
    found = dict(zip(channels, units, strict=True))
    if any(found.get(channel) != unit for channel, unit in JET_CHANNELS.items()):
        raise DataError(
            f"observables cannot be computed from channels {_listed(found)}: expected {_listed(JET_CHANNELS)}; convert"
            " images that have these units, or name them with --channels and --units"
        )


def check_jet_images(channels: tuple[str, ...], height: int, width: int) -> None:
    """Observables need all channels, and whole towers.

    Raises:
        DataError: a channel is missing, or the image is no grid of towers.
    """
    if missing := [channel for channel in JET_CHANNELS if channel not in channels]:
        raise DataError(
            f"observables cannot be computed without {', '.join(missing)}: the images have {', '.join(channels)}; name"
            " the channels when converting, with --channels"
        )
    if height % TOWER_PIXELS or width % TOWER_PIXELS:
        raise DataError(
            f"observables cannot be computed from images of {height}x{width} pixels: expected multiples of"
            f" {TOWER_PIXELS}, the width of a tower; convert such images"
        )


def _listed(unit_of_channel: dict[str, str]) -> str:
    return ", ".join(f"{channel} in {unit}" for channel, unit in unit_of_channel.items())

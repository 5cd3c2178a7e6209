"""How a channel is called in a picture."""

from jetmae.report.figure_style import plain_text

_KNOWN = {
    "track_pt": r"track $p_T$",
    "d0": r"$d_0$",
    "dz": r"$d_z$",
    "ecal": "ECAL",
    "hcal": "HCAL",
    "bpix1": "BPIX1",
    "bpix2": "BPIX2",
    "bpix3": "BPIX3",
}


def channel_name(channel: str) -> str:
    """As detectors and papers write it; an unknown name as it is."""
    return _KNOWN.get(channel.lower(), plain_text(channel))


def channel_label(channel: str, unit: str) -> str:
    """With the unit, as an axis has it."""
    return f"{channel_name(channel)} [{plain_text(unit)}]"

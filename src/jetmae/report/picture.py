"""A figure as it stands in the page, and beside it as a file."""

import base64
import re
from dataclasses import dataclass

from matplotlib.figure import Figure

from jetmae.report.figure_style import png_bytes


@dataclass(frozen=True)
class Picture:
    """A PNG with the words that go with it."""

    file_name: str
    png: bytes
    alternative_text: str
    caption: str = ""

    @property
    def source(self) -> str:
        """The picture as a data URL."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


def picture_of(name: str, figure: Figure, alternative_text: str, caption: str = "") -> Picture:
    """Drawn now. `name` is the file's, without its ending."""
    return Picture(f"{name}.png", png_bytes(figure), alternative_text, caption)


def slug(name: str) -> str:
    """A file name from a run's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"

"""What the documentation says: its pages, and the commands in them.

Commands stand in fenced blocks with the language `bash`, and in the text as code that begins with `python jobs/` or
`jetmae`. A block that needs a cluster or files of the reader's own has a comment above it:

    <!-- needs a site -->
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import PROJECT

PAGES = tuple(PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")) + tuple(
    sorted((PROJECT / "docs").rglob("*.md"))
)
LANGUAGES = {"bash", "text", "yaml", "json", "python"}
NEEDS_A_SITE = "<!-- needs a site -->"
FENCE = re.compile(r"(?P<before>[^\n]*)\n```(?P<language>[^\n]*)\n(?P<text>.*?)\n```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    text: str
    needs_site: bool

    def commands(self) -> list[str]:
        """One for each line, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def blocks() -> list[Block]:
    """All fenced blocks of all pages."""
    return [
        Block(str(page.relative_to(PROJECT)), match["language"], match["text"], match["before"] == NEEDS_A_SITE)
        for page in PAGES
        for match in FENCE.finditer("\n" + page.read_text())
    ]


def command_blocks() -> list[Block]:
    return [block for block in blocks() if block.language == "bash"]


def prose_of(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub(lambda match: match["before"], "\n" + page.read_text())


def inline_code(page: Path) -> Iterator[str]:
    """What stands between single backticks; one that is broken over two lines is one."""
    for code in re.findall(r"`([^`]+)`", prose_of(page)):
        yield " ".join(code.split())


def inline_commands() -> list[tuple[str, str]]:
    """(page, command) of each command in the text that can be typed as it stands, but for its arguments."""
    return [
        (str(page.relative_to(PROJECT)), code)
        for page in PAGES
        for code in inline_code(page)
        if re.match(r"(python jobs/\w+\.py|jetmae) \w", code)
    ]

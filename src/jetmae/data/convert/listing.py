"""Names for a message: as many as one reads, and how many more there are."""

from collections.abc import Collection

MOST_NAMES = 4
MOST_CHARACTERS = 48  # of one name


def listing(names: Collection[object], most: int = MOST_NAMES) -> str:
    """`a, b, c, d and 596 more`, the first `most` of them; a name that is very long is cut."""
    shown = [_short(str(name)) for name, _ in zip(names, range(most), strict=False)]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest:,} more" if rest else "")


def _short(name: str) -> str:
    return name if len(name) <= MOST_CHARACTERS else f"{name[: MOST_CHARACTERS - 3]}..."

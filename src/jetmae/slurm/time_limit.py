"""Slurm's way to write a time limit."""

import re


def minutes(text: str) -> int:
    """A time limit in minutes: `90`, `1:30:00`, `2-12`, `2-12:30`.

    Raises:
        ValueError: it is none of these.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not match:
        raise ValueError(f"{text!r}: expected minutes, H:MM:SS, D-H or D-H:MM")
    days, first, second, third = (int(part) if part else None for part in match.groups())
    assert first is not None
    if days is not None:
        return days * 1440 + first * 60 + (second or 0) + (1 if third else 0)
    if third is not None:
        return first * 60 + (second or 0) + (1 if third else 0)
    return first + (1 if second else 0)

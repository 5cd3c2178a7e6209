"""Reading what a run is writing at this moment, or was writing when it was killed. Standard library only."""

import json
from pathlib import Path


def readable_lines(path: Path, *, last_bytes: int | None = None) -> list[dict]:
    """The objects of a JSON-lines file, or of its end; what cannot be read is left out, whoever looks must not fail."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            first = max(0, size - last_bytes) if last_bytes else 0
            file.seek(first)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [content for line in lines[bool(first) :] if (content := _object(line)) is not None]


def read_object(path: Path) -> dict:
    """The object of a JSON file, or an empty one if there is none."""
    try:
        return _object(path.read_text()) or {}
    except OSError:
        return {}


def _object(text: str) -> dict | None:
    """The object that ends `text`: a torn line has no line end, so the next one stands directly behind it."""
    start = text.find("{")
    while start >= 0:
        try:
            content = json.loads(text[start:])
            return content if isinstance(content, dict) else None
        except ValueError:
            start = text.find('{"', start + 1)
    return None

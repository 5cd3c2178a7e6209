"""Files with one JSON object per line. They survive a killed writer and a power failure."""

import json
import os
from pathlib import Path

from jetmae.errors import JetmaeError
from jetmae.files import cannot_write, fsync
from jetmae.records.json_object import Json, parse_object


def append_line(path: Path, content: Json) -> None:
    """Append one object as one line. The line is on disk when this returns.

    So is the name of the file: the process that made the file may have been killed before it could flush the name.

    Raises:
        JetmaeError: it cannot be written.
    """
    try:
        cut_torn_tail(path)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")
            file.flush()
            os.fsync(file.fileno())
        fsync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def cut_torn_tail(path: Path) -> None:
    """Remove a last line that is not whole, so that the next one does not continue it or come after it.

    A killed writer leaves the beginning of a line, or a whole line that is not on disk yet; it is when this returns.
    A power failure may leave the end of a line, with zeros before it.
    """
    if path.exists():
        with path.open("r+b") as file:
            content = file.read()
            begin = content.rfind(b"\n", 0, -1) + 1
            if not content.endswith(b"\n") or parse_object(content[begin:]) is None:
                file.truncate(begin)
            os.fsync(file.fileno())


def read_lines(path: Path) -> list[Json]:
    """The objects of a file; none if there is no file.

    What a crash leaves is skipped: a last line that is not whole, and zeros where lines had not been flushed.

    Raises:
        JetmaeError: another line is not a JSON object.
    """
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()
    objects = []
    for number, line in enumerate(lines, start=1):
        content = parse_object(line)
        if content is not None:
            objects.append(content)
        elif number < len(lines) and "\0" not in line:
            raise JetmaeError(
                f"{path} line {number} is not a JSON object: {line[:60]!r}; move that line away, try again"
            )
    return objects


def readable_lines(path: Path, *, last_bytes: int | None = None) -> list[Json]:
    """The objects of a file that a run may be writing at this moment, or those of its last `last_bytes` bytes.

    Never fails: what cannot be read is left out.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            first = max(0, size - last_bytes) if last_bytes else 0
            file.seek(first)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [content for line in lines[bool(first) :] if (content := _object_at_end(line)) is not None]


def _object_at_end(line: str) -> Json | None:
    """The object that ends a line: a torn line has no line end, so the next one stands directly behind it."""
    start = line.find("{")
    while start >= 0:
        if (content := parse_object(line[start:])) is not None:
            return content
        start = line.find('{"', start + 1)
    return None

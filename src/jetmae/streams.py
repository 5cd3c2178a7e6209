"""What programs of ours print, and how they name files, in any locale. Standard library only.

A terminal or a log may be in Latin-1 or ASCII, and our words hold signs that these lack: they get plain twins instead
of ending the program. Names of files are bytes that our records hold as UTF-8, so Python has to take them for UTF-8
even where the locale says otherwise.
"""
# ruff: noqa: RUF001  (signs that are taken for others are what this is about)

import codecs
import io
import os
import sys

PLAIN_TWINS = "jetmae.plain-twins"
TWINS = {
    "±": "+-", "×": "x", "·": ".", "•": "*", "–": "-", "—": "-", "−": "-", "…": "...", "→": "->", "←": "<-",
    "≤": "<=", "≥": ">=", "≈": "~", "≠": "!=", "µ": "u", "μ": "u", "η": "eta", "φ": "phi", "ε": "eps", "σ": "sigma",
    "√": "sqrt", "°": " deg", "‘": "'", "’": "'", "“": '"', "”": '"', "\N{NO-BREAK SPACE}": " ", "━": "-", "─": "-",
    "│": "|", "✓": "ok", "✗": "x", "ä": "a", "ö": "o", "ü": "u", "ß": "ss", "²": "2", "³": "3",
    "█": "#", "▉": "#", "▊": "#", "▋": "#", "▌": "#", "▍": "#", "▎": "#", "▏": "#",
}  # fmt: skip


def plain_twins(error: UnicodeError) -> tuple[str, int]:
    """The handler of codecs for signs that a stream cannot take: their twins, or else a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(TWINS.get(sign, "?") for sign in signs), error.end


codecs.register_error(PLAIN_TWINS, plain_twins)


def speak_anywhere() -> None:
    """Let stdout and stderr take every sign, whatever the locale."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PLAIN_TWINS)


def name_files_in_utf8() -> None:
    """Begin this program anew where Python would take names of files for something else than UTF-8.

    Nothing has happened yet when it is called. What is printed stays in the locale's encoding.
    """
    if sys.getfilesystemencoding() != "utf-8":
        spoken = {"PYTHONIOENCODING": sys.stdout.encoding} if sys.stdout else {}
        words = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execve(sys.executable, words, {**os.environ, "PYTHONUTF8": "1", **spoken})

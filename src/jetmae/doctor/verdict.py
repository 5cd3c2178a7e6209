"""One line of doctor's answer: what was checked, what was found, what that means, and what to do."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jetmae.errors import EXIT_BAD_CONFIG

OK, WARNING, FAILED = "ok", "warning", "FAILED"


@dataclass(frozen=True)
class Verdict:
    """`warning`: a run works, but slower or less safely than it could. `FAILED`: it would not work."""

    name: str
    level: str
    found: str
    meaning: str = ""
    todo: str = ""


def ok(name: str, found: str, meaning: str = "") -> Verdict:
    return Verdict(name, OK, found, meaning)


def warning(name: str, found: str, meaning: str, todo: str) -> Verdict:
    return Verdict(name, WARNING, found, meaning, todo)


def failed(name: str, found: str, meaning: str, todo: str) -> Verdict:
    return Verdict(name, FAILED, found, meaning, todo)


def tried(name: str, action: Callable[[], str], *, meaning: str, todo: str) -> Verdict:
    """`ok` with what `action` returns, or `FAILED` with the error that the system gave it."""
    try:
        return ok(name, action())
    except OSError as error:
        return failed(name, error.strerror or str(error), meaning, todo)


def has_failed(verdicts: Iterable[Verdict]) -> bool:
    return any(verdict.level == FAILED for verdict in verdicts)


def exit_code(verdicts: Iterable[Verdict]) -> int:
    return EXIT_BAD_CONFIG if has_failed(verdicts) else 0

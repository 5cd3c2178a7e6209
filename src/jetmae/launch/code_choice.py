"""Which code runs are given when they are launched: today's, frozen in their folder; what they have; the live one."""

import os
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from jetmae.errors import JetmaeError
from jetmae.files import cannot_write, make_folder
from jetmae.launch.git_state import git_state
from jetmae.launch.run_code import check_code, is_frozen
from jetmae.launch.snapshot import PACKAGE, Snapshot, problem_of, read_snapshot, running_code, write_snapshot
from jetmae.records.launch import CodeRecord, read_launch, write_launch
from jetmae.run_folder import RunFolder
from jetmae.runtime.lease import held_lease


class Choice(Enum):
    """What a person wants: a run keeps its code, and a new one gets today's; all get today's; all use the live code."""

    KEEP = auto()
    REFRESH = auto()
    LIVE = auto()


@dataclass(frozen=True)
class Code:
    """A snapshot, and what launch.json is to say of it."""

    snapshot: Snapshot
    record: CodeRecord
    git_diff: str | None


@dataclass(frozen=True)
class Known:
    """What all runs of a command share; `notes` has for each text the runs that it is about."""

    today: Code
    of_new_runs: Code
    notes: dict[str, list[str]] = field(default_factory=dict)

    def note(self, run: RunFolder, text: str) -> None:
        self.notes.setdefault(text, []).append(run.root.name)


def give_code(runs: list[RunFolder], choice: Choice) -> None:
    """See to the code of all runs that are not complete, before they are started; new ones of a command get the same.

    Raises:
        JetmaeError: the code of a run is damaged, or cannot be written.
        FolderBusy: a run that would get other code is being trained.
    """
    today = todays_code()
    known = Known(today, next(filter(None, map(frozen_code, runs)), today))
    give = {Choice.KEEP: keep, Choice.REFRESH: refresh, Choice.LIVE: make_live}[choice]
    for run in runs:
        if not run.completed.exists():
            give(run, known)
    for text, names in known.notes.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        print(f"{names[0]}{more}: {text}", file=sys.stderr)  # scripts read what --freeze prints


def keep(run: RunFolder, known: Known) -> None:
    """Freeze the code of a new run. Any other goes on with what it has, and it is said if that is not today's."""
    code = read_launch(run.launch).newest_code
    if not run.config.exists():
        freeze_code(run, known.of_new_runs)
    elif is_frozen(run, code):
        keep_frozen(run, code, known)
    else:
        why = "it was launched with --live-code" if code else "its code was never frozen"
        known.note(run, f"{why}: going on with the live code of {PACKAGE}; --refresh-code freezes that")
        record_live(run, known.today)


def keep_frozen(run: RunFolder, code: CodeRecord | None, known: Known) -> None:
    """Check the frozen code, and compare it with today's."""
    check_code(run)
    frozen, today = read_snapshot(run.code), known.today.snapshot.digest
    if code is None:  # the launch that froze it was ended before it could say so
        record(run, Code(frozen, record_of(frozen), None))
    if frozen.digest != today:
        known.note(
            run,
            f"the code has changed since it was frozen ({frozen.digest[:8]}, now {today[:8]}): going on with the frozen"
            " code; --refresh-code takes today's, another --name starts anew",
        )


def refresh(run: RunFolder, known: Known) -> None:
    """Freeze today's code in place of what the run has."""
    code, digest = read_launch(run.launch).newest_code, known.today.snapshot.digest
    if code and code.frozen and code.digest == digest and problem_of(run.code, digest) is None:
        known.note(run, f"its code is today's ({digest[:8]}) already")
        return
    with ExitStack() as held:
        if run.config.exists():
            held.enter_context(held_lease(run.root))
            known.note(run, f"frozen code is now {digest[:8]}, before {code.digest[:8] if code else 'the live code'}")
        freeze_code(run, known.today)


def make_live(run: RunFolder, known: Known) -> None:
    """Leave the run without code of its own."""
    make_folder(run.root)
    with ExitStack() as held:
        if run.code.exists():
            held.enter_context(held_lease(run.root))
            set_aside(run)
        record_live(run, known.today)


def freeze_code(run: RunFolder, code: Code) -> None:
    """Write code into a run folder, in place of what is there.

    Raises:
        JetmaeError: it cannot be written, or not be found by Python there.
    """
    if os.pathsep in str(run.root):
        raise JetmaeError(
            f"{run.root}: expected a path without {os.pathsep!r}, where PYTHONPATH would be split, for the run's code;"
            " choose another --runs-dir, or add --live-code"
        )
    make_folder(run.root)
    if problem_of(run.code, code.record.digest):  # another launch at the same moment may have written it
        set_aside(run)
        write_snapshot(code.snapshot, run.code)
    record(run, code)


def set_aside(run: RunFolder) -> None:
    """Keep what is about to be replaced; code-1 is the oldest.

    Raises:
        JetmaeError: it cannot be moved.
    """
    if not run.code.exists():
        return
    number = 1 + sum(path.name.removeprefix("code-").isdecimal() for path in run.root.glob("code-*"))
    try:
        run.code.rename(run.root / f"code-{number}")
    except OSError as error:
        raise cannot_write(run.code, error) from error


# -- what launch.json says ---------------------------------------------------------------------------------------------


def todays_code() -> Code:
    """The code that runs now."""
    snapshot, git = running_code(), git_state(PACKAGE)
    return Code(snapshot, replace(record_of(snapshot), git_commit=git.commit, git_dirty=git.dirty), git.diff)


def frozen_code(run: RunFolder) -> Code | None:
    """The code of a run that has its own, if that is whole."""
    launch = read_launch(run.launch)
    if launch.newest_code is None or not launch.newest_code.frozen or problem_of(run.code, launch.newest_code.digest):
        return None
    return Code(read_snapshot(run.code), replace(launch.newest_code, since_s=time.time()), launch.git_diff)


def record_of(snapshot: Snapshot) -> CodeRecord:
    """What is known of a snapshot by itself."""
    return CodeRecord(frozen=True, digest=snapshot.digest, version=snapshot.version, since_s=time.time())


def record_live(run: RunFolder, today: Code) -> None:
    """Write down that the run uses the live code, and which that is today."""
    newest = read_launch(run.launch).newest_code
    if newest is None or newest.frozen or newest.digest != today.record.digest:
        record(run, replace(today, record=replace(today.record, frozen=False)))


def record(run: RunFolder, code: Code) -> None:
    """Add to launch.json which code the run has from now on."""
    launch = read_launch(run.launch)
    write_launch(
        run.launch,
        replace(launch, code=[*launch.code, code.record], git_commit=code.record.git_commit, git_diff=code.git_diff),
    )

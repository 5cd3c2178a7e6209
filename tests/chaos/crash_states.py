"""Every state that a power failure can leave a run in, and what a start makes of it.

After each operation of some recorded lives of a run (tests/chaos/tapes.py) the power fails, and some of what was not
flushed is lost (tests/chaos/disk.py). Each different state is put on a memory file system, and the code that a start
runs has to find every record as it was promised, and the newest checkpoint bit for bit. From some it then goes on: it
saves, prunes, and appends to its records.
"""

import random
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

from jetmae.attempts import start_attempt
from jetmae.checkpoint.store import CheckpointStore
from jetmae.files import make_folder
from jetmae.records.attempts import amend_last_attempt, has_ever_committed, read_attempts
from jetmae.records.json_lines import read_lines
from jetmae.run_folder import RunFolder
from jetmae.runtime.lease import acquire
from tests.chaos.disk import Disk, Loss
from tests.chaos.lives import KEEP, PLACE, RECORDS, Promises
from tests.chaos.recorder import put
from tests.chaos.small_run import SmallBackend, make_checkpoints, state_of
from tests.chaos.tally import Tally
from tests.chaos.tapes import Tape, cuts_of, go_on_after, whole_lives

MEMORY = Path("/dev/shm")
GO_ON_EVERY = 8  # states; going on takes longer than looking


def explore(seed: int = 0, *, cuts: int | None = None) -> Tally:
    """All instants and losses of two lives, and of what follows when they are cut off. Each different state once.

    They are cut off after each kind of operation, or after `cuts` kinds drawn by chance.
    """
    tally, draw = Tally("different states"), random.Random(seed)
    with scratch() as folder:
        tapes = whole_lives(folder, seed)
        chosen = [cut for tape in tapes for cut in cuts_of(tape, draw)]
        for number, cut in enumerate(chosen if cuts is None else draw.sample(chosen, cuts)):
            tapes += go_on_after(folder / f"cut-{number}", cut, draw)
        check(tapes, folder / "state", tally)
    tally.notes.append(f"of {sum(len(tape.points) for tape in tapes)} operations in {len(tapes)} lives")
    return tally


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory, where an fsync costs nothing; nor does a package's version, or waiting for a lost owner."""
    folder = Path(tempfile.mkdtemp(prefix="jetmae-chaos-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        with patch("jetmae.checkpoint.checkpoints.version", cache(version)), patch("jetmae.runtime.lease.LEASE_S", 0):
            yield folder
    finally:
        shutil.rmtree(folder)


def check(tapes: Iterable[Tape], folder: Path, tally: Tally, *, until_violation: bool = False) -> None:
    seen: set[int] = set()
    for tape in tapes:
        for place, loss, promised in _new_states(tape, seen):
            put(loss.tree, folder)
            found = shortcomings(RunFolder(folder / "demo"), promised, goes_on=tally.total % GO_ON_EVERY == 0)
            shutil.rmtree(folder)
            tally.tried[loss.kind] += 1
            tally.violations += [f"{place}, {loss.kind}: {what}" for what in found]
            if until_violation and found:
                return


def _new_states(tape: Tape, seen: set[int]) -> Iterator[tuple[str, Loss, Promises]]:
    """Two states are the same if the disk is the same and the same is promised."""
    disk, place = Disk(tape.tree), "at the beginning"
    for point in range(len(tape.moments) + 1):
        if point in tape.points:
            promised = tape.promised_at(point)
            text = repr(promised)
            for loss in disk.losses():
                key = hash((frozenset(loss.tree.items()), text))
                if key not in seen:
                    seen.add(key)
                    yield place, loss, promised
        if point < len(tape.moments):
            moment = tape.moments[point]
            place = f"after operation {point}, {moment.kind}"
            disk.do(moment.operation)


def shortcomings(run: RunFolder, promised: Promises, *, goes_on: bool) -> list[str]:
    """What a start does not find as promised; `goes_on` also lets it save and write."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the checkpoint that was damaged
            found = [*_wrong_records(run, promised), *_wrong_checkpoints(run, promised)]
            return found or (list(_cannot_go_on(run)) if goes_on else [])
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]


def _wrong_records(run: RunFolder, promised: Promises) -> Iterator[str]:
    for subject, read in RECORDS.items():
        if (found := read(run)) not in promised[subject]:
            yield f"{subject}: found {found!r:.300}, expected one of {promised[subject]!r:.300}"


def _wrong_checkpoints(run: RunFolder, promised: Promises) -> Iterator[str]:
    store, backend = CheckpointStore(run.checkpoints, keep=KEEP), SmallBackend()
    whole = _whole_ones(store)
    torn = {path.name for path in store.committed()} - {*whole, *promised["damaged"][0]}
    if torn or len(whole) < promised["whole"][0]:
        yield f"{sorted(torn)} not whole, {whole} whole, expected {promised['whole'][0]} of them"
    ever_committed = has_ever_committed(read_attempts(run.attempts))
    state = make_checkpoints(store, backend).load_newest(ever_committed=ever_committed)
    step = state.step if state else None
    if step not in promised["checkpoint"] or (state and not (state == state_of(step) and backend.holds(step))):
        yield f"loaded {state}, expected step {' or '.join(map(str, promised['checkpoint']))}"


def _whole_ones(store: CheckpointStore) -> list[str]:
    return [path.name for path in store.committed() if _is_whole(store, path)]


def _is_whole(store: CheckpointStore, folder: Path) -> bool:
    try:
        files = store.read_manifest(folder)["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return store.damage(folder, files, files) is None


def _cannot_go_on(run: RunFolder) -> Iterator[str]:
    make_folder(run.root)
    yield from _cannot_write_lines(run)
    store, backend = CheckpointStore(run.checkpoints, keep=KEEP), SmallBackend()
    checkpoints = make_checkpoints(store, backend, lease=acquire(run.root))
    state = checkpoints.load_newest()
    step = state.step + 1 if state else 0
    checkpoints.save_now(backend.train_to(step))
    kept = _whole_ones(store)
    if step != run.last_commit() or len(kept) > KEEP or (state and len(kept) < 2):
        yield f"after a save of step {step} there are {kept}"


def _cannot_write_lines(run: RunFolder) -> Iterator[str]:
    lines = read_lines(run.attempts)
    if lines:
        amend_last_attempt(run.attempts, cause="node_failure", message="a node is down")
        lines[-1] = {**lines[-1], "cause": "node_failure", "message": "a node is down"}
    start_attempt(run, PLACE)
    if read_lines(run.attempts)[:-1] != lines:
        yield f"a start line does not go after {lines!r:.300}: {read_lines(run.attempts)!r:.300}"

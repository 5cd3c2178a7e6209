"""Storage that hiccups, fills up, or shows one rank later what another has made.

One rank or two, and faults planted in the calls of the operating system.
"""

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from jetmae import files
from jetmae.checkpoint.checkpoints import MAX_FAILED_SAVES, Checkpoints, Identity
from jetmae.checkpoint.pieces import Piece
from jetmae.checkpoint.store import CheckpointStore, TakenOver
from jetmae.checkpoint.train_state import TrainState
from jetmae.engine.recorder import Recorder
from jetmae.errors import JetmaeError, PassingFault, exit_with_one_line
from jetmae.files import NotVisible, await_listed
from jetmae.records.json_lines import append_line, read_lines
from jetmae.records.timeline import RestoreLine
from jetmae.runtime.lease import Lease, acquire
from jetmae.runtime.world import World

ALONE = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))


@dataclass(frozen=True)
class ThreadWorld(World):
    """Ranks that are threads of this process."""

    meeting: threading.Barrier
    desk: list

    def gather(self, content):
        self.desk[self.rank] = content
        self.meeting.wait(60)
        gathered = list(self.desk)
        self.meeting.wait(60)
        return gathered

    def sum(self, tensor):
        return sum(self.gather(tensor))


class OneTensor:
    """Stands for the network under DeepSpeed: one tensor, of which each rank has an equal part."""

    def __init__(self, world: World, length: int = 1000):
        share = length // world.size
        self.values = torch.zeros(share)
        self.start = share * world.rank

    def pieces(self) -> list[Piece]:
        return [Piece("weight", self.start, self.values)]

    def numbers(self) -> dict:
        return {}

    def restore(self, numbers: dict) -> None:
        pass


def make_checkpoints(root: Path, world: World, lease: Lease, record: Callable[[dict], None]) -> Checkpoints:
    store = CheckpointStore(root / "checkpoints", keep=2)
    identity = Identity("experiment", "data")
    training = OneTensor(world)
    pieces = training.pieces()
    return Checkpoints(store, world, lease, training=training, pieces=pieces, identity=identity, record=record)


@dataclass
class Alone:
    """A run of one rank; `timeline` holds what it records."""

    root: Path
    timeline: list[dict]
    checkpoints: Checkpoints

    def save(self, step: int) -> None:
        self.checkpoints.training.values.fill_(step)
        self.checkpoints.begin(TrainState(step=step))
        self.checkpoints.finish()

    def outcomes(self) -> list[str]:
        return [line.outcome for line in self.timeline if not isinstance(line, RestoreLine)]

    def names(self) -> list[str]:
        return sorted(path.name for path in self.checkpoints.store.folder.iterdir())


@pytest.fixture
def alone(tmp_path) -> Alone:
    timeline: list[dict] = []
    return Alone(tmp_path, timeline, make_checkpoints(tmp_path, ALONE, acquire(tmp_path), timeline.append))


def fail_once(monkeypatch, name: str, number: int, *, on: Callable[..., bool] = lambda *_: True) -> list:
    """Let the next call of os.NAME whose arguments please `on` fail; returns the list of calls that failed."""
    real, struck = getattr(os, name), []

    def call(*arguments, **more):
        if not struck and on(*arguments):
            struck.append(arguments)
            raise OSError(number, os.strerror(number))
        return real(*arguments, **more)

    monkeypatch.setattr(os, name, call)
    return struck


def is_rank_file(descriptor: int, *_) -> bool:
    return os.readlink(f"/proc/self/fd/{descriptor}").endswith(".safetensors")


# -- a save that fails -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "number"), [("fsync", errno.EIO), ("write", errno.ENOSPC), ("write", errno.EDQUOT)])
def test_a_save_that_fails_is_counted_and_the_next_one_is_written_anew(alone, monkeypatch, call, number):
    alone.save(10)
    struck = fail_once(monkeypatch, call, number, on=is_rank_file)
    with pytest.warns(UserWarning, match=rf"save of step 20 failed \(1 in a row\).*{os.strerror(number)}"):
        alone.save(20)
    assert struck
    assert alone.names() == ["LAST", "step-00000010"]
    alone.save(30)
    assert alone.outcomes() == ["committed", "failed", "committed"]
    assert alone.checkpoints.load_newest().step == 30
    assert alone.checkpoints.training.values.eq(30).all()


def test_a_flush_of_the_folder_that_fails_leaves_an_older_or_a_whole_newer_one(alone, monkeypatch):
    """When the flush after the rename fails, nobody knows whether the name is on disk; what is found must verify."""
    alone.save(10)
    folder = str(alone.checkpoints.store.folder)
    struck = fail_once(monkeypatch, "fsync", errno.EIO, on=lambda fd: os.readlink(f"/proc/self/fd/{fd}") == folder)
    with pytest.warns(UserWarning, match="save of step 20 failed"):
        alone.save(20)
    assert struck
    assert alone.checkpoints.load_newest().step in (10, 20)
    alone.save(30)
    assert alone.checkpoints.load_newest().step == 30


def test_saves_that_fail_in_a_row_end_the_run_with_the_cause_and_the_older_one_stays(alone, monkeypatch):
    alone.save(10)
    monkeypatch.setattr(os, "write", refuse(errno.ENOSPC))
    for step in range(20, 20 + MAX_FAILED_SAVES - 1):
        with pytest.warns(UserWarning, match="No space left"):
            alone.save(step)
    last = pytest.warns(UserWarning, match="No space left")
    with last, pytest.raises(JetmaeError, match=r"3 saves in a row failed.*No space left"):
        alone.save(29)
    monkeypatch.undo()
    assert alone.checkpoints.load_newest().step == 10


def test_an_old_one_that_cannot_be_deleted_makes_no_failure_of_the_new_one(alone, monkeypatch):
    """On NFS a file that somebody reads comes back under another name, and its folder stays."""
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    for step in range(1, 7):
        alone.save(step)
    assert alone.outcomes() == ["committed"] * 6
    assert [name for name in alone.names() if name.startswith("step")] == ["step-00000005", "step-00000006"]
    assert alone.checkpoints.load_newest().step == 6

    monkeypatch.setattr(CheckpointStore, "prune", refuse(errno.EIO))
    with pytest.warns(UserWarning, match="older checkpoints in .* cannot be deleted"):
        alone.save(7)
    assert alone.outcomes()[-1] == "committed"


def test_a_timeline_that_cannot_be_written_ends_no_training(alone):
    def refuse_line(line: dict) -> None:
        raise JetmaeError("timeline.jsonl cannot be written")

    alone.checkpoints._record = refuse_line
    with pytest.warns(UserWarning, match=r"timeline\.jsonl cannot be written"):
        alone.save(10)
    assert alone.names() == ["LAST", "step-00000010"]


def refuse(number: int) -> Callable:
    def call(*_, **__):
        raise OSError(number, os.strerror(number))

    return call


# -- a listing that is late --------------------------------------------------------------------------------------------


class LateFor:
    """What was made below a folder, hidden from the threads of one rank until `shown`.

    So os.listdir, os.stat and os.open see it.
    """

    def __init__(self, monkeypatch, folder: Path):
        self.folder, self.threads, self.shown = str(folder), set(), False
        for name in ("listdir", "stat", "open"):
            monkeypatch.setattr(os, name, self._late(getattr(os, name)))

    def _late(self, real: Callable) -> Callable:
        def call(path=".", *arguments, **more):
            hidden = not self.shown and threading.get_ident() in self.threads
            if hidden and str(path).startswith(self.folder) and str(path) != self.folder:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            found = real(path, *arguments, **more)
            return [] if hidden and real.__name__ == "listdir" and str(path) == self.folder else found

        return call

    def show_after(self, delay_s: float) -> None:
        threading.Timer(delay_s, setattr, (self, "shown", True)).start()


@pytest.fixture
def late(monkeypatch, tmp_path) -> LateFor:
    return LateFor(monkeypatch, tmp_path / "checkpoints")


@pytest.fixture
def lease(tmp_path) -> Lease:
    return acquire(tmp_path)


def on_two_ranks(lease: Lease, action: Callable[[Checkpoints], object], late: LateFor | None = None) -> list:
    """What an action on the checkpoints comes to on each rank: its result, or the error that it raised."""
    meeting, desk = threading.Barrier(2), [None, None]
    results: list = [None, None]

    def act(rank: int) -> None:
        if late and rank == 1:
            late.threads.add(threading.get_ident())
        world = ThreadWorld(rank, 2, rank, torch.device("cpu"), meeting, desk)
        try:
            results[rank] = action(make_checkpoints(lease.root, world, lease, lambda line: None))
        except Exception as error:
            results[rank] = error

    ranks = [threading.Thread(target=act, args=(rank,)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    return results


def save_ten(checkpoints: Checkpoints) -> None:
    checkpoints.training.values.fill_(10)
    checkpoints.save_now(TrainState(step=10))


def load(checkpoints: Checkpoints) -> tuple[int, float]:
    state = checkpoints.load_newest()
    return state.step, checkpoints.training.values.mean().item()


def test_what_is_listed_late_is_awaited_even_if_its_folder_is_new_as_well(tmp_path, late):
    path = tmp_path / "checkpoints" / "step" / "file"
    path.parent.mkdir(parents=True)
    path.touch()
    late.threads.add(threading.get_ident())
    late.show_after(0.2)
    await_listed(path)
    assert late.shown


def test_what_does_not_come_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "VISIBLE_WITHIN_S", 0.2)
    with pytest.raises(NotVisible, match=rf"{tmp_path}/absent/file was not visible on .* within 0 s"):
        await_listed(tmp_path / "absent" / "file")


def test_a_rank_that_sees_a_checkpoint_late_waits_and_loads_it(lease, late):
    assert on_two_ranks(lease, save_ten) == [None, None]
    late.show_after(0.5)
    assert on_two_ranks(lease, load, late) == [(10, 10.0), (10, 10.0)]
    assert late.shown


def test_a_checkpoint_that_a_rank_never_sees_ends_the_start_and_is_not_set_aside(lease, late, monkeypatch):
    on_two_ranks(lease, save_ten)
    monkeypatch.setattr(files, "VISIBLE_WITHIN_S", 0.3)
    results = on_two_ranks(lease, load, late)
    for error in results:
        assert isinstance(error, NotVisible)
        assert "step-00000010 was not visible on" in str(error)
    late.shown = True
    assert on_two_ranks(lease, load) == [(10, 10.0), (10, 10.0)]


def test_files_that_vanish_from_sight_between_the_check_and_the_read_are_no_damage(lease, late, monkeypatch):
    on_two_ranks(lease, save_ten)
    monkeypatch.setattr(files, "VISIBLE_WITHIN_S", 0.3)
    late.shown = True
    monkeypatch.setattr(Checkpoints, "_read", hide_before(Checkpoints._read, late))
    results = on_two_ranks(lease, load, late)
    assert [type(error) for error in results] == [NotVisible, NotVisible]
    assert not list(lease.root.glob("checkpoints/.step*damaged*"))


@pytest.mark.parametrize("name", ["manifest.json", "rank-00001.safetensors"])
@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
def test_storage_that_does_not_answer_is_no_damage_and_all_ranks_say_so(lease, monkeypatch, name, number):
    """A mounted server that is away gives EIO, as a bad disk does: nothing is set aside for it."""
    on_two_ranks(lease, save_ten)
    with monkeypatch.context() as unplugged:
        unplugged.setattr(Path, "open", refuse_for(name, number, Path.open))
        results = on_two_ranks(lease, load)
    for error in results:
        assert isinstance(error, PassingFault)
        assert f"{name} cannot be read on" in str(error)
        assert os.strerror(number) in str(error)
    assert on_two_ranks(lease, load) == [(10, 10.0), (10, 10.0)]


def refuse_for(name: str, number: int, real: Callable) -> Callable:
    def call(path, *arguments, **more):
        if path.name == name:
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *arguments, **more)

    return call


def test_a_run_that_was_taken_over_ends_on_all_ranks_before_anything_is_read(lease):
    on_two_ranks(lease, save_ten)
    later = Lease(lease.root, lease.token + 1)
    (lease.root / f".lease-{later.token:08d}.json").write_text("{}")
    results = on_two_ranks(lease, load)
    assert [type(error) for error in results] == [TakenOver, TakenOver]


def hide_before(method: Callable, late: LateFor) -> Callable:
    def hidden(*arguments):
        late.shown = False
        return method(*arguments)

    return hidden


def test_a_rank_that_sees_the_folder_of_a_new_save_late_waits_with_its_file(lease, late):
    late.show_after(0.5)
    assert on_two_ranks(lease, save_ten) == [None, None]
    late.shown = False
    late.show_after(0.5)
    results = on_two_ranks(lease, lambda checkpoints: save_late(checkpoints, late))
    assert results == [None, None]
    assert late.shown
    assert (lease.root / "checkpoints" / "step-00000020").exists()


def save_late(checkpoints: Checkpoints, late: LateFor) -> None:
    """Rank 1 writes on its checkpoint thread: that is the one to be deceived."""
    if checkpoints.world.rank == 1:
        checkpoints._thread.submit(lambda: late.threads.add(threading.get_ident())).result()
    checkpoints.save_now(TrainState(step=20))


# -- records on a full disk --------------------------------------------------------------------------------------------


def test_a_record_that_cannot_be_written_is_one_line_with_its_path(tmp_path, monkeypatch):
    path = tmp_path / "attempts.jsonl"
    append_line(path, {"attempt": 1})
    fail_once(monkeypatch, "fsync", errno.ENOSPC)
    with pytest.raises(JetmaeError, match=r"attempts\.jsonl cannot be written \(No space left on device\): free"):
        append_line(path, {"attempt": 2})
    append_line(path, {"attempt": 3})
    assert read_lines(path)[0] == {"attempt": 1}
    assert read_lines(path)[-1] == {"attempt": 3}


def test_full_or_broken_storage_is_one_line_and_another_fault_of_the_system_is_not(tmp_path, monkeypatch, capsys):
    fail_once(monkeypatch, "fsync", errno.ENOSPC)
    with pytest.raises(SystemExit, match="78"):
        exit_with_one_line(lambda: files.write_text(tmp_path / "launch.json", "text"))
    expected = f"error: {tmp_path}/launch.json: No space left on device; mend the storage, then start again to go on\n"
    assert capsys.readouterr().err == expected
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConnectionRefusedError):
        exit_with_one_line(refuse(errno.ECONNREFUSED))


@pytest.fixture
def recorder(tmp_path) -> Recorder:
    paths = (tmp_path / "metrics.jsonl", tmp_path / "tensorboard", tmp_path / "logs" / "run.log")
    return Recorder(*paths, name="run", attempt=1, first_step=0, total_steps=8)


def record_step(recorder: Recorder, step: int, *, loss: float = 0.5) -> None:
    recorder.train(step=step, samples=step, epoch=0.1, loss=loss, lr=1e-3, grad_norm=1.0, jets_per_s=1.0)


def test_tensorboard_on_a_full_disk_is_said_once_and_ends_nothing(recorder, tmp_path, capsys):
    record_step(recorder, 1)
    with open("/dev/full", "wb", buffering=0) as full, recorder._tensorboard._file:
        recorder._tensorboard._file = full
        for step in range(2, 21):
            record_step(recorder, step)
        recorder.close()
    said = capsys.readouterr().out
    assert said.count("TensorBoard's file cannot be written (No space left on device)") == 1
    assert f"{19 * 4} entries are not in TensorBoard's file" in said
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == list(range(1, 21))


def test_curves_of_a_start_that_repeats_steps_replace_those_of_the_start_before(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    paths = (tmp_path / "metrics.jsonl", tmp_path / "tensorboard", tmp_path / "logs" / "run.log")
    for attempt, (first, last) in enumerate([(0, 8), (4, 12)], start=1):
        recorder = Recorder(*paths, name="run", attempt=attempt, first_step=first, total_steps=12)
        for step in range(first + 1, last + 1):
            record_step(recorder, step, loss=float(attempt))
        recorder.picture("picture", np.zeros((4, 4, 3), np.uint8), last)
        recorder.close()
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in shown.Scalars("loss/train")] == [
        *((step, 1.0) for step in range(1, 5)),
        *((step, 2.0) for step in range(5, 13)),
    ]
    assert [event.step for event in shown.Images("picture")] == [12]


class FullFile:
    write = staticmethod(refuse(errno.ENOSPC))


def test_metrics_that_cannot_be_written_are_one_line_and_a_torn_one_is_cut_later(recorder, tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    record_step(recorder, 1)
    with path.open("a") as file:
        file.write(json.dumps({"step": 2})[:5])
    with monkeypatch.context() as full:
        full.setattr(recorder, "_metrics", FullFile())
        with pytest.raises(JetmaeError, match=r"metrics\.jsonl cannot be written \(No space left on device\)"):
            record_step(recorder, 2)
    recorder.close()
    again = Recorder(path, tmp_path / "tensorboard", tmp_path / "logs" / "run.log", name="run", attempt=2,
                     first_step=1, total_steps=8)  # fmt: skip
    record_step(again, 2)
    again.close()
    assert [line["step"] for line in read_lines(path)] == [1, 2]

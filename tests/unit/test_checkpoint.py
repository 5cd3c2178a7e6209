"""Whole or absent: what one rank saves and loads, and the pieces that any number of ranks share.

Several ranks are in tests/integration, what a power failure or a damaged disk makes of checkpoints in tests/chaos.
"""

import json
import os
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from jetmae.checkpoint import checkpoints as module
from jetmae.checkpoint.checkpoints import MAX_FAILED_SAVES, Checkpoints, Identity
from jetmae.checkpoint.pieces import Piece, StateImage, read_pieces
from jetmae.checkpoint.store import CheckpointStore, TakenOver, write_file
from jetmae.checkpoint.train_state import TrainState
from jetmae.errors import JetmaeError
from tests.chaos.small_run import IDENTITY, Lease, SmallBackend, make_checkpoints, state_of

CPU = torch.device("cpu")


@pytest.fixture
def store(tmp_path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "run" / "checkpoints", keep=2)


@pytest.fixture
def backend() -> SmallBackend:
    return SmallBackend()


@pytest.fixture
def lines() -> list[dict]:
    """Of the run's timeline."""
    return []


@pytest.fixture
def checkpoints(store, backend, lines) -> Checkpoints:
    return make_checkpoints(store, backend, record=lines.append)


def load(store: CheckpointStore, **options: object) -> tuple[TrainState | None, SmallBackend]:
    """As another start does it."""
    backend = SmallBackend()
    return make_checkpoints(store, backend, **options).load_newest(), backend


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def spoil(backend: SmallBackend) -> None:
    backend.pieces()[0].values[3] = torch.nan


# -- saving and loading ------------------------------------------------------------------------------------------------


def test_the_newest_comes_back_with_its_state_and_two_are_kept(store, backend, checkpoints):
    for step in (10, 20, 30):
        checkpoints.save_now(backend.train_to(step))
    assert names(store) == ["LAST", "step-00000020", "step-00000030"]
    assert (store.folder / "LAST").read_text() == "step-00000030\n"
    state, loaded = load(store)
    assert state == state_of(30)
    assert loaded.holds(30)


def test_fewer_than_two_are_never_kept(tmp_path, backend):
    store = CheckpointStore(tmp_path / "checkpoints", keep=1)
    checkpoints = make_checkpoints(store, backend)
    for step in (10, 20, 30):
        checkpoints.save_now(backend.train_to(step))
    assert [path.name for path in store.committed()] == ["step-00000020", "step-00000030"]


def test_a_new_run_has_none(store):
    assert load(store)[0] is None


def test_a_step_that_is_committed_is_not_saved_again(store, backend, checkpoints):
    checkpoints.save_now(backend.train_to(10))
    written = (store.path_of(10) / "manifest.json").stat()
    checkpoints.save_now(backend.train_to(10))
    assert (store.path_of(10) / "manifest.json").stat() == written


def test_the_manifest_says_what_was_written_by_whom(store, backend, checkpoints):
    checkpoints.save_now(backend.train_to(10))
    manifest = json.loads((store.path_of(10) / "manifest.json").read_text())
    assert (manifest["state"]["step"], manifest["ranks"], manifest["token"]) == (10, 1, 1)
    assert set(manifest["packages"]) == {"jetmae", "torch", "deepspeed"}
    assert manifest["numbers"] == {"optimizer_steps": 10}
    assert set(manifest["files"]) == {"rank-00000.safetensors"}


@pytest.mark.parametrize("what", ["experiment", "data"])
def test_a_checkpoint_of_something_else_is_refused_and_stays(store, backend, checkpoints, what):
    checkpoints.save_now(backend.train_to(10))
    with pytest.raises(JetmaeError, match=rf"written with another {what} \(.*, now other\): put back"):
        load(store, identity=Identity(**{**vars(IDENTITY), what: "other"}))
    assert load(store)[0] == state_of(10)


def test_a_damaged_checkpoint_is_set_aside_with_a_warning_and_the_older_one_is_loaded(store, backend, checkpoints):
    for step in (10, 20):
        checkpoints.save_now(backend.train_to(step))
    (store.path_of(20) / "rank-00000.safetensors").unlink()
    with pytest.warns(UserWarning, match=r"step-00000020 is damaged .* set aside as \.step-00000020\.damaged"):
        state, loaded = load(store)
    assert state == state_of(10)
    assert loaded.holds(10)
    assert ".step-00000020.damaged" in names(store)


def test_a_run_that_has_committed_never_starts_from_nothing(store, backend, checkpoints):
    checkpoints.save_now(backend.train_to(10))
    (store.path_of(10) / "manifest.json").write_text("{}")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(JetmaeError, match="restore one from a backup"):
        load(store)
    with pytest.raises(JetmaeError, match="no whole checkpoint is left"):  # what was set aside is all there is
        load(store)


def test_what_the_records_say_counts_when_the_folder_is_gone(checkpoints):
    with pytest.raises(JetmaeError, match="those that the run has committed"):
        checkpoints.load_newest(ever_committed=True)


def test_a_checkpoint_of_another_network_is_refused_and_left_where_it_is(store, backend, checkpoints):
    checkpoints.save_now(backend.train_to(10))
    other = SmallBackend()
    other.pieces().append(Piece("weight/decoder", 0, torch.zeros(3)))
    with pytest.raises(JetmaeError, match=r"lacks weight/decoder from 0 to 3: is it of another network\?"):
        make_checkpoints(store, other).load_newest()
    assert [path.name for path in store.committed()] == ["step-00000010"]


# -- in the background -------------------------------------------------------------------------------------------------


@pytest.fixture
def held(monkeypatch) -> threading.Event:
    """Writing of state files waits for it."""
    let_go = threading.Event()
    monkeypatch.setattr(module, "write_file", lambda *words: let_go.wait(60) and write_file(*words))
    return let_go


def test_a_save_goes_on_while_training_does_and_commits_at_a_later_step(store, backend, checkpoints, lines, held):
    checkpoints.begin(backend.train_to(10))
    assert checkpoints.is_busy
    checkpoints.await_copy()
    backend.train_to(11)  # the copy is taken: what is written is step 10
    assert store.committed() == []
    held.set()
    checkpoints.advance()  # all have written
    checkpoints.advance()  # committed
    assert not checkpoints.is_busy
    assert not checkpoints.is_saving
    state, loaded = load(store)
    assert state == state_of(10)
    assert loaded.holds(10)
    assert [(line.step, line.outcome) for line in lines] == [(10, "committed")]
    assert 0 <= lines[0].stall_s <= lines[0].write_s


def test_a_save_is_brought_to_its_end_before_the_next_begins(store, backend, checkpoints):
    checkpoints.begin(backend.train_to(10))
    checkpoints.begin(backend.train_to(20))
    assert [path.name for path in store.committed()] == ["step-00000010"]
    checkpoints.finish()
    assert load(store)[0] == state_of(20)


def test_a_process_that_ends_while_it_writes_leaves_what_is_swept(store, backend, checkpoints, held):
    checkpoints.begin(backend.train_to(10))
    assert names(store) == [".step-00000010.1.partial"]
    held.set()
    while checkpoints.is_busy:
        pass
    assert load(store)[0] is None
    assert names(store) == []


# -- saves that fail ---------------------------------------------------------------------------------------------------


def full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_failed_saves_are_counted_and_the_third_in_a_row_is_fatal(store, backend, checkpoints, lines, monkeypatch):
    checkpoints.save_now(backend.train_to(10))
    monkeypatch.setattr(module, "write_file", full_disk)
    for number in range(1, MAX_FAILED_SAVES):
        checkpoints.begin(backend.train_to(10 + number))
        with pytest.warns(UserWarning, match=rf"failed \({number} in a row\): .*No space left on device"):
            checkpoints.finish()
    checkpoints.begin(backend.train_to(20))
    with pytest.warns(UserWarning, match="3 in a row"), pytest.raises(JetmaeError, match="3 saves in a row failed"):
        checkpoints.finish()
    assert [line.outcome for line in lines] == ["committed", "failed", "failed", "failed"]
    assert names(store) == ["LAST", "step-00000010"]
    assert load(store)[0] == state_of(10)


def test_a_save_that_succeeds_ends_the_count(store, backend, checkpoints, monkeypatch):
    for step in (10, 20):
        with monkeypatch.context() as broken:
            broken.setattr(module, "write_file", full_disk)
            checkpoints.begin(backend.train_to(step))
            with pytest.warns(UserWarning, match=r"\(1 in a row\)"):
                checkpoints.finish()
        checkpoints.save_now(backend.train_to(step + 1))
    assert load(store)[0] == state_of(21)


def test_what_is_not_finite_is_never_committed(store, backend, checkpoints):
    checkpoints.save_now(backend.train_to(10))
    state = backend.train_to(20)
    spoil(backend)
    with pytest.raises(JetmaeError, match="weight/encoder has values that are not finite"):
        checkpoints.save_now(state)
    assert names(store) == ["LAST", "step-00000010"]


def test_a_checkpoint_that_does_not_fit_is_not_begun(backend, checkpoints, monkeypatch):
    checkpoints.save_now(backend.train_to(10))
    full = os.statvfs_result((4096, 4096, 10, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    with pytest.raises(JetmaeError, match="GiB free, a checkpoint needs"):
        checkpoints.save_now(backend.train_to(20))


# -- owners ------------------------------------------------------------------------------------------------------------


def test_a_former_owner_can_neither_begin_nor_commit(store, backend):
    lease = Lease()
    checkpoints = make_checkpoints(store, backend, lease=lease)
    checkpoints.save_now(backend.train_to(10))
    checkpoints.begin(backend.train_to(20))
    lease.is_held = False
    with pytest.raises(TakenOver, match="taken over by another job"):
        checkpoints.finish()
    with pytest.raises(TakenOver):
        checkpoints.begin(backend.train_to(30))
    with pytest.raises(TakenOver):
        checkpoints.load_newest()
    assert [path.name for path in store.committed()] == ["step-00000010"]


def test_a_commit_after_the_sweep_of_a_new_owner_fails(store):
    partial = store.partial_of(10, token=1)
    store.make(partial, needed_bytes=1)
    files = {"rank-00000.safetensors": write_file(partial / "rank-00000.safetensors", memoryview(b"state"))}
    CheckpointStore(store.folder, keep=2).sweep()
    with pytest.raises(TakenOver, match="was taken away"):
        store.commit(partial, 10, content={}, files=files)
    assert names(store) == []


def test_a_sweep_between_manifest_and_rename_wins(store, monkeypatch):
    partial = store.partial_of(10, token=1)
    store.make(partial, needed_bytes=1)
    files = {"rank-00000.safetensors": write_file(partial / "rank-00000.safetensors", memoryview(b"state"))}
    monkeypatch.setattr("jetmae.checkpoint.store.enter_phase", lambda phase: phase == "save: rename" and store.sweep())
    with pytest.raises(TakenOver):
        store.commit(partial, 10, content={}, files=files)
    assert names(store) == []


def test_a_sweep_removes_all_remains_and_nothing_else(store, backend, checkpoints):
    checkpoints.save_now(backend.train_to(10))
    for left in (
        ".step-00000020.1.partial",
        ".step-00000020.2.partial",
        ".step-00000020.trash",
        ".step-00000005.trash",
    ):
        (store.folder / left).mkdir()
        (store.folder / left / "rank-00000.safetensors").touch()
    (store.folder / ".step-00000030.damaged").mkdir()
    store.sweep()
    assert names(store) == [".step-00000030.damaged", "LAST", "step-00000010"]


def test_a_file_that_was_not_written_to_its_end_is_not_committed(store):
    partial = store.partial_of(10, token=1)
    store.make(partial, needed_bytes=1)
    files = {"rank-00000.safetensors": write_file(partial / "rank-00000.safetensors", memoryview(b"state"))}
    os.truncate(partial / "rank-00000.safetensors", 3)
    with pytest.raises(JetmaeError, match="has 3 bytes, expected 5"):
        store.commit(partial, 10, content={}, files=files)
    assert store.committed() == []


# -- pieces ------------------------------------------------------------------------------------------------------------


def parts_of(tensors: dict[str, torch.Tensor], cuts: dict[str, list[int]], rank: int) -> list[Piece]:
    """What lies on a rank when rank r holds each tensor from the r-th cut to the next."""
    return [Piece(name, cuts[name][rank], tensor[cuts[name][rank] : cuts[name][rank + 1]].clone())
            for name, tensor in tensors.items()]  # fmt: skip


def write(folder: Path, pieces_of_ranks: list[list[Piece]]) -> list[Path]:
    paths = []
    for rank, pieces in enumerate(pieces_of_ranks):
        image = StateImage(pieces, CPU)
        image.copy()
        paths.append(folder / f"rank-{rank:05d}.safetensors")
        write_file(paths[-1], image.content)
    return paths


@st.composite
def cuttings(draw, lengths: dict[str, int]) -> tuple[int, dict[str, list[int]]]:
    """A number of ranks, and where each tensor is cut for them."""
    ranks = draw(st.integers(1, 4))
    inner = {name: st.lists(st.integers(0, n), min_size=ranks - 1, max_size=ranks - 1) for name, n in lengths.items()}
    return ranks, {name: [0, *sorted(draw(inner[name])), n] for name, n in lengths.items()}


@settings(max_examples=60)
@given(st.data())
def test_any_cut_into_pieces_is_read_back_from_any_other(data):
    lengths = data.draw(st.dictionaries(st.sampled_from("abc"), st.integers(0, 20), min_size=1))
    tensors = {name: torch.randn(length) for name, length in lengths.items()}
    writers, written = data.draw(cuttings(lengths))
    readers, read = data.draw(cuttings(lengths))
    with TemporaryDirectory() as folder:
        paths = write(Path(folder), [parts_of(tensors, written, rank) for rank in range(writers)])
        for rank in range(readers):
            wanted = parts_of({name: torch.full_like(tensor, -1) for name, tensor in tensors.items()}, read, rank)
            read_pieces(data.draw(st.permutations(paths)), wanted)
            for piece in wanted:
                assert torch.equal(piece.values, tensors[piece.name][piece.start : piece.stop])


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("readers", [1, 2, 3, 4])
def test_replicated_pieces_are_written_once_and_read_by_all(tmp_path, ranks, readers):
    whole = SmallBackend()
    whole.train_to(7)
    shares = []
    for rank in range(ranks):
        backend = SmallBackend(rank, ranks)
        backend.train_to(7)
        shares.append([piece.share(rank, ranks) for piece in backend.pieces()])
    assert sum(len(piece.values) for pieces in shares for piece in pieces) == sum(
        len(piece.values) for piece in whole.pieces()
    )
    paths = write(tmp_path, shares)
    for rank in range(readers):
        reader = SmallBackend(rank, readers)
        read_pieces(paths, reader.pieces())
        reader.restore({"optimizer_steps": 7})
        assert reader.holds(7)


def test_a_part_that_no_file_has_is_refused_with_its_place(tmp_path):
    tensor = torch.arange(10.0)
    paths = write(tmp_path, [[Piece("weight", 0, tensor[:4])], [Piece("weight", 6, tensor[6:])]])
    with pytest.raises(JetmaeError, match="lacks weight from 4 to 6"):
        read_pieces(paths, [Piece("weight", 0, torch.empty(10))])


def test_a_file_that_is_not_needed_is_not_read(tmp_path):
    paths = write(tmp_path, [[Piece("weight", 0, torch.arange(4.0))], [Piece("weight", 4, torch.arange(4.0))]])
    paths[1].unlink()
    wanted = Piece("weight", 1, torch.empty(3))
    read_pieces(paths, [wanted])
    assert wanted.values.tolist() == [1, 2, 3]


def test_the_image_is_a_file_of_the_safetensors_format(tmp_path):
    values = {"a/weight": torch.randn(5), "b": torch.randn(1)}
    (path,) = write(tmp_path, [[Piece("a/weight", 3, values["a/weight"]), Piece("b", 0, values["b"]),
                                Piece("empty", 2, torch.empty(0))]])  # fmt: skip
    read = load_file(path)
    assert set(read) == set(values)  # an empty piece is not in it
    assert all(torch.equal(read[name], values[name]) for name in values)


def test_an_image_holds_what_was_copied_last(backend):
    image = StateImage(backend.pieces(), CPU)
    contents = []
    for step in (1, 2):
        backend.train_to(step)
        image.copy()
        backend.train_to(3)
        contents.append(bytes(image.content))
    assert contents[0] != contents[1]
    assert len(contents[0]) == len(contents[1]) == len(image)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_an_image_that_is_not_finite_is_refused_with_the_name(value):
    values = torch.zeros(9)
    values[8] = value
    image = StateImage([Piece("good", 0, torch.ones(3)), Piece("moment/head", 0, values)], CPU)
    image.copy()
    with pytest.raises(JetmaeError, match="moment/head has values that are not finite"):
        image.check_finite()


def test_the_best_score_is_kept_over_a_resume():
    state = TrainState(step=5, best_score=-0.4, best_step=3)
    assert not state.record_score(-0.5)
    assert state.validations_without_gain == 1
    assert state.record_score(-0.3)
    assert (state.best_score, state.best_step, state.validations_without_gain) == (-0.3, 5, 0)

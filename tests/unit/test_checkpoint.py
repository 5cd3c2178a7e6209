"""Whole or absent: the commit protocol of one rank, with a stand-in for DeepSpeed that writes a file.

DeepSpeed's own part, and several ranks, are in tests/integration and tests/cluster.
"""

import json
from pathlib import Path

import pytest
import torch

from jetmae.checkpoint import Checkpoints, Layout
from jetmae.engine.state import TrainState
from jetmae.errors import JetmaeError
from jetmae.runtime.world import World

ALONE = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))


class FileBackend:
    """Saves one number; fails when told to."""

    def __init__(self):
        self.number, self.error = 0, None

    def save(self, folder: Path) -> None:
        (folder / "deepspeed").mkdir()
        (folder / "deepspeed" / "number").write_text(str(self.number))
        if self.error:
            raise self.error

    def load(self, folder: Path) -> None:
        self.number = int((folder / "deepspeed" / "number").read_text())


@pytest.fixture
def backend() -> FileBackend:
    return FileBackend()


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", ALONE, Layout(1, 0, "fp32"), keep=2)


def save(checkpoints: Checkpoints, backend: FileBackend, step: int) -> None:
    backend.number = step
    checkpoints.save(backend, None, TrainState(step=step, best_score=-0.5, best_step=1))


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


def test_the_newest_comes_back_with_its_state_and_two_are_kept(checkpoints, backend):
    for step in (10, 20, 30):
        save(checkpoints, backend, step)
    assert names(checkpoints) == ["LAST", "step-00000020", "step-00000030"]
    assert (checkpoints.folder / "LAST").read_text() == "step-00000030\n"
    backend.number = 0
    assert checkpoints.load_newest(backend, None) == TrainState(step=30, best_score=-0.5, best_step=1)
    assert backend.number == 30


def test_a_new_run_has_none(checkpoints, backend):
    assert checkpoints.load_newest(backend, None) is None


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 576 vs 534")])
def test_a_failed_save_leaves_what_was_there(checkpoints, backend, error):
    save(checkpoints, backend, 10)
    backend.error = error
    with pytest.raises(JetmaeError, match="could not be written"):
        save(checkpoints, backend, 20)
    backend.error = None
    assert checkpoints.load_newest(backend, None).step == 10
    save(checkpoints, backend, 20)  # over the remains of the failed one
    assert checkpoints.load_newest(backend, None).step == 20


def damage_number(folder: Path) -> None:
    (folder / "deepspeed" / "number").write_text("99")


def lose_number(folder: Path) -> None:
    (folder / "deepspeed" / "number").unlink()


def lose_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def truncate_manifest(folder: Path) -> None:
    content = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("damage", [damage_number, lose_number, lose_manifest, truncate_manifest])
def test_a_damaged_checkpoint_is_set_aside_with_a_warning(checkpoints, backend, damage):
    save(checkpoints, backend, 10)
    save(checkpoints, backend, 20)
    damage(checkpoints.folder / "step-00000020")
    with pytest.warns(UserWarning, match="step-00000020 is damaged"):
        state = checkpoints.load_newest(backend, None)
    assert state.step == backend.number == 10
    assert ".step-00000020.damaged" in names(checkpoints)


def test_a_run_whose_checkpoints_are_all_damaged_never_starts_again_from_nothing(checkpoints, backend):
    save(checkpoints, backend, 10)
    damage_number(checkpoints.folder / "step-00000010")
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(JetmaeError, match="no whole checkpoint"):
        checkpoints.load_newest(backend, None)
    with pytest.raises(JetmaeError, match="no whole checkpoint"):  # only the one that was set aside is left
        checkpoints.load_newest(backend, None)


def test_a_partial_folder_is_no_checkpoint(checkpoints, backend):
    save(checkpoints, backend, 10)
    partial = checkpoints.folder / ".step-00000020.partial"
    (partial / "deepspeed").mkdir(parents=True)
    (partial / "deepspeed" / "number").write_text("20")
    assert checkpoints.load_newest(backend, None).step == 10


def test_another_layout_is_refused_with_both(checkpoints, backend):
    save(checkpoints, backend, 10)
    other = Checkpoints(checkpoints.folder, ALONE, Layout(1, 3, "fp32"), keep=2)
    with pytest.raises(JetmaeError, match=r"zero_stage 0.*zero_stage 3"):
        other.load_newest(backend, None)


def test_the_manifest_lists_every_file(checkpoints, backend):
    save(checkpoints, backend, 10)
    folder = checkpoints.folder / "step-00000010"
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(listed) == found - {"manifest.json"}


def test_the_best_score_is_kept_over_a_resume():
    state = TrainState(step=5, best_score=-0.4, best_step=3)
    assert not state.record_score(-0.5)
    assert state.validations_without_gain == 1
    assert state.record_score(-0.3)
    assert (state.best_score, state.best_step, state.validations_without_gain) == (-0.3, 5, 0)

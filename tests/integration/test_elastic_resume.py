"""A run goes on with another number of ranks and under another ZeRO stage, with no step in between.

The same command again, with another layout: same global batches and masks, so the first loss agrees to rounding and the
curve stays with the one of the run that kept its layout.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from jetmae.records.json_lines import read_lines
from jetmae.run_folder import RunFolder
from tests.conftest import TINY, TINY_DECODER, launch, succeed

pytestmark = pytest.mark.slow

COMMIT, STEPS = 6, 12
SETTINGS = (*TINY, *TINY_DECODER, f"optim.steps={STEPS}", "optim.batch_size=8", "optim.lr=1e-3",
            "optim.warmup_epochs=0", "optim.ema_decay=0.9", "model.drop_path=0.2", f"log.checkpoint_steps={COMMIT}",
            "log.keep_checkpoints=3", "log.every_steps=1", "--name", "run")  # fmt: skip


@dataclass(frozen=True)
class Layout:
    ranks: int
    zero_stage: int

    def __str__(self) -> str:
        return f"{self.ranks} rank{'s' * (self.ranks > 1)} ZeRO {self.zero_stage}"

    def train(self, sample: Path, runs: Path) -> dict[int, float]:
        """Train or go on training in this layout; the loss of each step that was logged last."""
        words = (f"engine.zero_stage={self.zero_stage}", f"data.path={sample}", "--ranks-per-node", self.ranks)
        succeed(launch("pretrain", *SETTINGS, *words, runs=runs))
        lines = read_lines(RunFolder(runs / "run").metrics)
        return {line["step"]: line["loss"] for line in lines if line["split"] == "train"}


CHANGES = {
    Layout(2, 1): (Layout(1, 1), Layout(4, 3)),
    Layout(1, 0): (Layout(2, 2),),
    Layout(4, 2): (Layout(2, 0),),
    Layout(2, 3): (Layout(2, 1),),
}


@pytest.mark.parametrize("before", CHANGES, ids=str)
def test_a_run_goes_on_in_another_layout(sample, tmp_path, before):
    kept = before.train(sample, tmp_path / "kept")
    for after in CHANGES[before]:
        runs = tmp_path / str(after).replace(" ", "-")
        copy_as_of_the_commit(tmp_path / "kept" / "run", runs / "run")
        changed = after.train(sample, runs)
        assert sorted(changed) == list(range(COMMIT + 1, STEPS + 1))
        first = abs(changed[COMMIT + 1] / kept[COMMIT + 1] - 1)
        whole = max(abs(changed[step] / kept[step] - 1) for step in changed)
        print(f"{before} -> {after}: first loss differs by {first:.1e}, the curve by at most {whole:.1e}")
        assert first < 1e-6
        assert whole < 0.01


def copy_as_of_the_commit(source: Path, target: Path) -> None:
    """The run folder as it was when only the first checkpoint had been committed."""
    target.mkdir(parents=True)
    shutil.copy(source / "config.yaml", target / "config.yaml")
    name = f"step-{COMMIT:08d}"
    shutil.copytree(source / "checkpoints" / name, target / "checkpoints" / name)

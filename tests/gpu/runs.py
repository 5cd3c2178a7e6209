"""Small runs on one GPU, through the command line."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from jetmae.records.json_lines import read_lines
from jetmae.run_folder import RunFolder
from tests.conftest import launch

STEPS = 20
SETTINGS = ("--config", "seed", "model.dim=32", "model.depth=2", "model.heads=2", "reconstruct.decoder_dim=32",
            "reconstruct.decoder_depth=1", "reconstruct.decoder_heads=2", "data.evaluation_jets=32",
            "data.train_jets=256",
            "optim.schedule=cosine", "optim.warmup_epochs=0.1", "optim.batch_size=16", "optim.lr=1e-3",
            f"optim.steps={STEPS}", "log.every_steps=1", "log.checkpoint_steps=5",
            "--ranks-per-node", 1)  # fmt: skip


def pretrain(sample: Path, runs: Path, name: str, *words: object, **environment: str):
    """`jetmae pretrain` of one rank; what it printed."""
    return launch("pretrain", *SETTINGS, f"data.path={sample}", *words, "--name", name, runs=runs, **environment)


def losses(run: RunFolder) -> dict[int, float]:
    """The training loss of each step; of a step that was done again the last one."""
    return {line["step"]: line["loss"] for line in read_lines(run.metrics) if line["split"] == "train"}


def last_arrays(run: RunFolder) -> dict[str, np.ndarray]:
    """Weights and moments at the end."""
    return load_file(run.checkpoints / f"step-{STEPS:08d}" / "rank-00000.safetensors")

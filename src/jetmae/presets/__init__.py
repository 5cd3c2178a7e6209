"""The presets of experiments and of clusters, as YAML files that are installed with the package.

In a clone, configs/ at the top is a link to this folder.
"""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
TASKS = ("pretrain", "finetune", "scratch", "probe")


def preset_names(kind: str) -> list[str]:
    """Of a task, or of `cluster`."""
    return sorted(path.stem for path in (FOLDER / kind).glob("*.yaml"))

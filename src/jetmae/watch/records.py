"""For cli/runs.py, until it takes `readable_launch`: launch.json as a mapping."""

from pathlib import Path

from jetmae.records.json_object import Json
from jetmae.records.launch import readable_launch


def read_object(path: Path) -> Json:
    """What launch.json says; nothing of what it does not say."""
    return {name: value for name, value in readable_launch(path).to_json().items() if value}

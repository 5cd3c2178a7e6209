"""The table of observables names those of the code, in their groups."""

import itertools
import re

from jetmae.data.jet_channels import JET_CHANNELS
from jetmae.data.observables import observable_names
from tests.conftest import PROJECT

PLACEHOLDERS = {"MAP": "{calorimeter,vertex}", "CHANNEL": "{" + ",".join(JET_CHANNELS) + "}"}


def expanded(cell: str) -> list[str]:
    """Names that a cell stands for: words in braces in turn, as in a shell."""
    for placeholder, words in PLACEHOLDERS.items():
        cell = cell.replace(placeholder, words)
    parts = [part.strip("{}").split(",") for part in re.findall(r"\{[^}]*\}|[^{}]+", cell)]
    return ["".join(chosen) for chosen in itertools.product(*parts)]


def test_the_table_has_each_observable_once():
    page = (PROJECT / "docs" / "observables.md").read_text()
    table = page[page.index("| observable |") :]
    named = [name for cell in re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE) for name in expanded(cell)]
    assert sorted(named) == sorted(observable_names(tuple(JET_CHANNELS)))


def test_the_channels_of_the_page_are_those_that_are_needed():
    page = (PROJECT / "docs" / "observables.md").read_text()
    rows = re.findall(r"^\| (`[^|]+`) \| (GeV|cm|hits) \|$", page, re.MULTILINE)
    units = {name: unit for names, unit in rows for name in re.findall("`([^`]+)`", names)}
    assert units == JET_CHANNELS

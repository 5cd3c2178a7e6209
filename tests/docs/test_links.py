"""What the documentation points to is there: pages, headings, files, folders.

Addresses of other hosts cannot be fetched here. Of those only the form is checked.
"""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import PROJECT
from tests.docs.pages import PAGES, inline_code, prose_of

TOP_FOLDERS = ("src", "tests", "docs", "configs", "jobs", "slurm", "benchmarks", "sample", ".ci")
TOP_FILES = re.compile(r"(README|CONTRIBUTING|SECURITY|CHANGELOG)\.md|Makefile|pyproject\.toml|mkdocs\.yml")
PLACEHOLDERS = {"TASK": "*", "NAME": "*"}
NAMES = [str(page.relative_to(PROJECT)) for page in PAGES]


def links_of(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose_of(page))


def headings_of(page: Path) -> set[str]:
    """The anchors of a page, as MkDocs makes them."""
    titles = re.findall(r"^#+ +(.*)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


@pytest.mark.parametrize("name", NAMES)
def test_links_between_pages_lead_somewhere(name):
    page = PROJECT / name
    for link in (link for link in links_of(page) if "://" not in link):
        target, _, anchor = link.partition("#")
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), link
        assert there.is_relative_to(PROJECT), link
        assert not anchor or anchor in headings_of(there), link


@pytest.mark.parametrize("name", NAMES)
def test_files_and_folders_that_are_named_exist(name):
    missing = [path for path in named_paths(PROJECT / name) if not any(PROJECT.glob(path))]
    assert missing == []


def named_paths(page: Path) -> list[str]:
    """Each path in backticks, with `*` in the place of TASK and NAME."""
    code = [word for text in inline_code(page) for word in text.split()]
    paths = [word for word in code if (word.split("/")[0] in TOP_FOLDERS and "/" in word) or TOP_FILES.fullmatch(word)]
    return [re.sub(r"\b(TASK|NAME)\b", lambda match: PLACEHOLDERS[match[1]], path.rstrip("/")) for path in paths]


def test_paths_are_found_in_the_text():
    assert "src/jetmae/config.py" in named_paths(PROJECT / "CONTRIBUTING.md")
    assert "configs/*/*.yaml" in named_paths(PROJECT / "docs" / "settings.md")


@pytest.mark.parametrize("name", NAMES)
def test_addresses_of_other_hosts_are_well_formed(name):
    for address in re.findall(r"\w+://[^\s)\"'`>|]+", (PROJECT / name).read_text()):
        parts = urlsplit(address)
        assert parts.scheme == "https", address
        assert re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", parts.netloc), address


def test_readmes_tree_lists_exactly_the_folders_of_the_package():
    tree = re.search(r"```text\n(jobs/ .*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)[1]
    inside = tree[tree.index("\nsrc/jetmae/") :].splitlines()[2:]
    listed = [line.split("/")[0].strip() for line in inside if line.startswith("  ")]
    package = PROJECT / "src" / "jetmae"
    folders = [path.name for path in package.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert sorted(listed) == sorted(folders)


def test_readmes_tree_lists_folders_that_exist():
    tree = re.search(r"```text\n(jobs/ .*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)[1]
    for line in tree.splitlines():
        name = line.split()[0]
        assert (PROJECT / ("src/jetmae" if line.startswith("  ") else "") / name).is_dir(), name


def test_every_page_is_in_the_sites_navigation():
    navigation = (PROJECT / "mkdocs.yml").read_text()
    pages = [str(page.relative_to(PROJECT / "docs")) for page in (PROJECT / "docs").rglob("*.md")]
    assert [page for page in pages if f": {page}\n" not in navigation] == []

"""What `pip install jetmae` gives to somebody who has no clone: all files, and commands that do the whole way."""

import json
import tarfile
from email.parser import BytesParser
from pathlib import Path

import pytest

from jetmae.presets import TASKS
from tests.conftest import PROJECT, TINY, TINY_DECODER
from tests.packaging.distributions import Distributions, build_all, contents
from tests.packaging.fresh_venv import FreshVenv

pytestmark = pytest.mark.slow
SOURCE = PROJECT / "src"
SHORT = (*TINY, *TINY_DECODER, "optim.batch_size=8", "optim.steps=3", "optim.warmup_epochs=0")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Distributions:
    return build_all(tmp_path_factory.mktemp("distributions"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory, built) -> FreshVenv:
    return FreshVenv(tmp_path_factory.mktemp("installed") / "venv", built.wheel)


def test_the_wheel_has_every_file_of_the_package_and_no_other(built):
    tree = {str(path.relative_to(SOURCE)) for path in (SOURCE / "jetmae").rglob("*") if path.is_file()}
    wheel = {name for name in contents(built.wheel) if ".dist-info/" not in name}
    assert wheel == {name for name in tree if "__pycache__" not in name}


def test_the_wheel_has_presets_the_report_page_the_licence_and_one_program(built):
    wheel = contents(built.wheel)
    for kind in (*TASKS, "cluster"):
        assert [name for name in wheel if name.startswith(f"jetmae/presets/{kind}/") and name.endswith(".yaml")], kind
    assert b"<html" in wheel["jetmae/report/page.html"]
    (entry_points,) = (text for name, text in wheel.items() if name.endswith(".dist-info/entry_points.txt"))
    assert entry_points.split() == b"[console_scripts] jetmae = jetmae.cli.main:program".split()
    (licence,) = (text for name, text in wheel.items() if name.endswith(".dist-info/licenses/LICENSE"))
    assert licence == (PROJECT / "LICENSE").read_bytes()


def test_the_metadata_say_what_it_is_and_what_it_needs(built):
    (text,) = (text for name, text in contents(built.wheel).items() if name.endswith(".dist-info/METADATA"))
    metadata = BytesParser().parsebytes(text)
    assert metadata["Name"] == "jetmae"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_payload(decode=True).strip() == (PROJECT / "README.md").read_bytes().strip()
    assert {"sim", "convert", "test", "dev", "docs"} == set(metadata.get_all("Provides-Extra"))


def test_a_wheel_made_from_the_source_distribution_is_the_same(built):
    assert contents(built.wheel_of_sdist) == contents(built.wheel)
    with tarfile.open(built.sdist) as archive:
        folders = {Path(name).parts[1] for name in archive.getnames() if len(Path(name).parts) > 2}
    assert folders == {"src"}


def test_what_is_installed_stands_alone(installed, tmp_path):
    code = "import json, sys, jetmae; print(json.dumps([jetmae.__file__, *sys.path]))"
    file, *path = json.loads(installed.run("python", "-c", code, cwd=tmp_path))
    assert Path(file).is_relative_to(installed.site_packages)
    sources = [entry for entry in path if Path(entry).resolve().is_relative_to(PROJECT / "src")]
    assert sources == []
    missing = "import importlib.util as u; print([n for n in ('pythia8mc', 'deflate', 'pytest') if u.find_spec(n)])"
    assert installed.run("python", "-c", missing, cwd=tmp_path) == "[]"


def test_help_answers_in_an_empty_folder(installed, tmp_path):
    assert "usage: jetmae doctor" in installed.run("jetmae", "doctor", "--help", cwd=tmp_path)
    assert "no runs" in installed.run("jetmae", "runs", "list", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_from_a_file_of_jets_to_the_report(installed, tmp_path):
    """In an empty folder, without Pythia and without the faster readers."""
    source = PROJECT / "sample" / "validation.h5"
    installed.run("jetmae", "data", "convert", source, "--out", "data/mine", cwd=tmp_path)
    words = ("data.path=data/mine", *SHORT, "--cluster", "local", "--ranks-per-node", 1)
    installed.run("jetmae", "pretrain", *words, cwd=tmp_path)
    assert (tmp_path / "runs" / "pretrain-small" / "COMPLETED").read_text() == "3\n"
    assert "pretrain-small" in installed.run("jetmae", "runs", "list", cwd=tmp_path)
    installed.run("jetmae", "runs", "report", "pretrain-small", cwd=tmp_path)
    (page,) = tmp_path.rglob("report.html")
    assert "pretrain-small" in page.read_text()

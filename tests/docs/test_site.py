"""The documentation as a site: it builds without a warning, and its pages fetch nothing from other hosts."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built pages; a broken link or anchor, or a page that is in no menu, is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    finished = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder


@pytest.mark.slow
def test_no_page_fetches_anything_from_another_host(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        fetched = re.findall(r"<(?:script|img|link|iframe|source)\b[^>]*(?:src|href)=[\"']?((?:https?:)?//[^\"'> ]+)",
                             page.read_text())  # fmt: skip
        assert fetched == [], page


@pytest.mark.slow
def test_tables_of_settings_are_filled_and_the_code_is_described(site):
    assert "engine.hang_limit_s" in (site / "settings.html").read_text()
    assert "jetmae.config.load_experiment" in (site / "api" / "configuration.html").read_text()
    assert "Who may import whom" in (site / "contributing.html").read_text()

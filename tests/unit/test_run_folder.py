"""The folder of a run: its name, and how it is found."""

from pathlib import Path

import pytest

from jetmae.errors import JetmaeError
from jetmae.files import written_aside
from jetmae.run_folder import find_run, new_run, runs_below


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a//b", "a/../b", "-x", "", "a b", "a\nb", "a;b", "$(x)", "a/", ".hidden"]
)
def test_a_run_name_cannot_lead_elsewhere(tmp_path, name):
    with pytest.raises(JetmaeError, match="run name"):
        new_run(name, tmp_path)


def test_runs_are_found_by_name_and_by_path(tmp_path):
    folder = tmp_path / "chain" / "pretrain"
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    assert find_run("chain/pretrain", tmp_path).root == folder
    assert find_run(str(folder), Path("/nowhere")).root == folder
    with pytest.raises(JetmaeError, match="expected a run folder or one of: chain/pretrain"):
        find_run("pretrian", tmp_path)


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), written_aside(path) as aside:
        aside.write_text("new \udc80", encoding="utf-8")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_links_to_runs_are_found_under_their_own_names_and_circles_end(tmp_path):
    runs, elsewhere = tmp_path / "runs", tmp_path / "elsewhere" / "target"
    for folder in (runs / "one", elsewhere):
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
    (runs / "linked").symlink_to(elsewhere)
    (runs / "round").symlink_to(runs)
    (runs / "broken").symlink_to(tmp_path / "nowhere")
    assert [str(path.relative_to(runs)) for path in runs_below(runs)] == ["linked", "one"]

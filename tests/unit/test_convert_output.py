"""What comes to be at --out while a conversion is at work is never lost, whoever made it and whenever."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from source_files import make_truth, ours

from jetmae.data.convert import convert as convert_module
from jetmae.data.convert import output as output_module
from jetmae.data.convert.convert import convert
from jetmae.data.manifest import read_manifest
from jetmae.errors import JetmaeError
from tests.conftest import type_command

TEXT = "three years of work"


@pytest.fixture
def source(tmp_path) -> str:
    ours(tmp_path / "source.h5", make_truth(4, side=20))
    return f"train={tmp_path / 'source.h5'}"


# ---- others at --out, at every instant


def a_file(out: Path) -> Path:
    out.write_text(TEXT)
    return out


def a_folder(out: Path) -> Path:
    out.mkdir()
    (out / "thesis.tex").write_text(TEXT)
    return out / "thesis.tex"


def a_link_to_a_folder(out: Path) -> Path:
    (out.parent / "elsewhere").mkdir()
    (out.parent / "elsewhere" / "thesis.tex").write_text(TEXT)
    out.symlink_to(out.parent / "elsewhere")
    return out / "thesis.tex"


def a_dangling_link(out: Path) -> Path:
    out.symlink_to(TEXT)
    return out


def another_dataset(out: Path) -> Path:
    """As another conversion would leave it that began and ended in the meantime."""
    out.mkdir()
    (out / "manifest.json").write_text(TEXT)
    return out / "manifest.json"


def before_step(monkeypatch, module, step: str, happens: Callable[[], object]) -> None:
    """Let something happen once, right before a step of the conversion."""
    original = getattr(module, step)

    def step_with_a_guest(*arguments, **keywords):
        monkeypatch.setattr(module, step, original)
        happens()
        return original(*arguments, **keywords)

    monkeypatch.setattr(module, step, step_with_a_guest)


INSTANTS = {  # of a conversion, each named by the step that is about to be taken
    "the sources are opened": (convert_module, "plan_conversion"),
    "remains are cleared": (output_module, "_clear_remains"),
    "the hidden folder is made": (output_module, "_made"),
    "a shard is written": (convert_module, "write_shard"),
    "the manifest is written": (convert_module, "write_manifest"),
    "the place is taken": (output_module, "_take_place"),
}
GUESTS = [a_file, a_folder, a_link_to_a_folder, a_dangling_link, another_dataset]


@pytest.mark.parametrize("guest", GUESTS)
@pytest.mark.parametrize("instant", INSTANTS)
def test_what_appears_at_out_stays(tmp_path, source, monkeypatch, instant, guest):
    out, left = tmp_path / "out", []
    before_step(monkeypatch, *INSTANTS[instant], lambda: left.append(guest(out)))
    with pytest.raises(JetmaeError, match="was taken during the conversion"):
        convert([source], out)
    assert kept(left[0])
    assert hidden_folders(tmp_path) == []


@pytest.mark.parametrize("guest", GUESTS)
def test_what_appears_at_out_between_the_last_look_and_the_rename_stays(tmp_path, source, monkeypatch, guest):
    out, left = tmp_path / "out", []
    before_the_rename = lambda: before_step(monkeypatch, os, "rename", lambda: left.append(guest(out)))  # noqa: E731
    before_step(monkeypatch, output_module, "_take_place", before_the_rename)
    with pytest.raises(JetmaeError, match="was taken during the conversion"):
        convert([source], out)
    assert kept(left[0])
    assert hidden_folders(tmp_path) == []


def kept(path: Path) -> bool:
    return (os.readlink(path) if path.is_symlink() else path.read_text()) == TEXT


def test_an_empty_folder_becomes_the_dataset_unless_it_is_used_meanwhile(tmp_path, source, monkeypatch):
    for name in ("out", "used"):
        (tmp_path / name).mkdir()
    convert([source], tmp_path / "out")
    assert read_manifest(tmp_path / "out").jets("train") == 4
    before_step(monkeypatch, output_module, "_take_place", lambda: (tmp_path / "used" / "a").write_text(TEXT))
    with pytest.raises(JetmaeError, match="was taken during the conversion"):
        convert([source], tmp_path / "used")
    assert (tmp_path / "used" / "a").read_text() == TEXT


def hidden_folders(parent: Path) -> list[str]:
    return [path.name for path in parent.iterdir() if path.name.startswith(".")]


# ---- --overwrite


def exchanged_for_another_dataset(out: Path) -> Path:
    shutil.rmtree(out)
    return another_dataset(out)


def joined_by_a_file(out: Path) -> Path:
    (out / "thesis.tex").write_text(TEXT)
    return out / "thesis.tex"


def exchanged_for_a_file(out: Path) -> Path:
    shutil.rmtree(out)
    return a_file(out)


def exchanged_for_a_link(out: Path) -> Path:
    shutil.move(out, out.parent / "elsewhere")
    (out.parent / "elsewhere" / "notes").write_text(TEXT)
    out.symlink_to(out.parent / "elsewhere")
    return out / "notes"


@pytest.mark.parametrize("last_look", [False, True])
@pytest.mark.parametrize(
    "change", [exchanged_for_another_dataset, joined_by_a_file, exchanged_for_a_file, exchanged_for_a_link]
)
def test_overwrite_replaces_only_the_dataset_that_it_saw(tmp_path, source, monkeypatch, change, last_look):
    """Also if it changes after the last look, at the instant before it is moved aside."""
    out, left = tmp_path / "out", []
    convert([source], out)
    change_it = lambda: left.append(change(out))  # noqa: E731
    if last_look:
        before_step(monkeypatch, output_module, "_refuse_changed", lambda: before_step(
            monkeypatch, os, "rename", change_it
        ))  # fmt: skip
    else:
        before_step(monkeypatch, output_module, "_take_place", change_it)
    with pytest.raises(JetmaeError, match=r"changed during the conversion|besides its dataset"):
        convert([source], out, overwrite=True)
    assert left[0].read_text() == TEXT
    assert hidden_folders(tmp_path) == []


@pytest.mark.parametrize("guest", GUESTS)
def test_what_appears_while_the_old_dataset_is_aside_stays_and_so_does_the_old(tmp_path, source, monkeypatch, guest):
    out, left = tmp_path / "out", []
    convert([source], out)
    before_step(monkeypatch, output_module, "_refuse_changed", lambda: before_step(
        monkeypatch, output_module, "_refuse_changed", lambda: left.append(guest(out))
    ))  # fmt: skip
    with pytest.raises(JetmaeError, match=r"lies at .*\.old now"):
        convert([source], out, overwrite=True)
    assert kept(left[0])
    (old,) = tmp_path.glob(".out.*.old")
    assert read_manifest(old).jets("train") == 4


def test_overwrite_refuses_a_dataset_with_other_files_beside_it(tmp_path, source):
    convert([source], tmp_path / "out")
    (tmp_path / "out" / "pictures").mkdir()
    with pytest.raises(JetmaeError, match="holds pictures besides its dataset"):
        convert([source], tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "pictures").is_dir()


def test_a_guest_that_comes_after_the_last_look_at_the_old_dataset_stays(tmp_path, source, monkeypatch, capsys):
    out = tmp_path / "out"
    convert([source], out)

    def guest() -> None:
        (aside,) = tmp_path.glob(".out.*.old")
        (aside / "thesis.tex").write_text(TEXT)

    before_step(monkeypatch, output_module, "_remove_dataset", guest)
    convert([source], out, overwrite=True)
    (aside,) = tmp_path.glob(".out.*.old")
    assert [path.read_text() for path in aside.iterdir()] == [TEXT]
    assert f"{aside}: what is left of the dataset" in capsys.readouterr().out


def test_a_damaged_dataset_can_be_overwritten(tmp_path, source):
    convert([source], tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text("{")
    convert([source], tmp_path / "out", overwrite=True)
    assert read_manifest(tmp_path / "out").jets("train") == 4
    assert hidden_folders(tmp_path) == []


def test_a_manifest_that_names_files_elsewhere_makes_none_of_them_ours(tmp_path, source):
    (tmp_path / "out").mkdir()
    (tmp_path / "precious-00000.h5").write_text(TEXT)
    names = '{"splits": {"train": [{"file": "../precious-00000.h5"}, {"file": "thesis.tex"}]}}'
    (tmp_path / "out" / "manifest.json").write_text(names)
    convert([source], tmp_path / "out", overwrite=True)
    assert (tmp_path / "precious-00000.h5").read_text() == TEXT
    (tmp_path / "out" / "thesis.tex").write_text(TEXT)
    with pytest.raises(JetmaeError, match="holds thesis"):
        convert([source], tmp_path / "out", overwrite=True)


# ---- links


@pytest.mark.parametrize("there", [False, True])
def test_a_link_is_followed(tmp_path, source, there):
    (tmp_path / "out").symlink_to(Path("disk") / "data")
    if there:
        (tmp_path / "disk" / "data").mkdir(parents=True)
    convert([source], tmp_path / "out")
    convert([source], tmp_path / "out", overwrite=True)
    assert os.readlink(tmp_path / "out") == "disk/data"
    assert read_manifest(tmp_path / "disk" / "data").jets("train") == 4
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["data"]


def test_a_link_that_leads_in_a_circle_is_refused(tmp_path, source):
    (tmp_path / "out").symlink_to("out")
    with pytest.raises(JetmaeError, match="is no dataset"):
        convert([source], tmp_path / "out")
    assert (tmp_path / "out").is_symlink()


# ---- other conversions


@pytest.fixture
def sleeper():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def partial_folder(tmp_path: Path, process: int, *, host: str = "node7", machine: str | None = None) -> Path:
    folder = tmp_path / f".out.{host}-{process}.{machine or output_module.machine_code()}.partial"
    folder.mkdir()
    (folder / "train-00000.h5").write_text(TEXT)
    return folder


def test_remains_of_a_dead_conversion_of_this_machine_are_removed(tmp_path, source, sleeper):
    sleeper.kill()
    sleeper.wait()
    partial_folder(tmp_path, sleeper.pid, host=socket.gethostname())
    convert([source], tmp_path / "out")
    assert hidden_folders(tmp_path) == []


def test_a_living_conversion_to_the_same_out_is_refused(tmp_path, source, sleeper):
    folder = partial_folder(tmp_path, sleeper.pid)
    with pytest.raises(JetmaeError, match=rf"another conversion to .*out is at work \(process {sleeper.pid}"):
        convert([source], tmp_path / "out")
    assert (folder / "train-00000.h5").read_text() == TEXT
    convert([source], tmp_path / "other")


def test_conversions_of_other_nodes_and_containers_are_left_alone(tmp_path, source, sleeper, capsys):
    """Their process ids say nothing here: number 1 is alive somewhere, and the sleeper is dead on this machine."""
    sleeper.kill()
    sleeper.wait()
    folder = partial_folder(tmp_path, sleeper.pid, machine="0123abcd")
    convert([source], tmp_path / "out")
    assert (folder / "train-00000.h5").read_text() == TEXT
    assert f"{folder}: of a conversion on node7 (process {sleeper.pid})" in capsys.readouterr().out


def test_a_replaced_dataset_that_a_dead_conversion_left_aside_is_kept_and_named(tmp_path, source, sleeper, capsys):
    sleeper.kill()
    sleeper.wait()
    convert([source], tmp_path / "out")
    aside = tmp_path / f".out.{socket.gethostname()}-{sleeper.pid}.{output_module.machine_code()}.old"
    (tmp_path / "out").rename(aside)
    convert([source], tmp_path / "out")
    assert read_manifest(aside).jets("train") == 4
    assert f"{aside}: the dataset that a conversion was replacing" in capsys.readouterr().out


@pytest.mark.parametrize("overwrite", [False, True])
def test_of_two_conversions_to_one_out_the_first_to_end_stays(tmp_path, source, monkeypatch, overwrite):
    """The second one begins and ends, in a process of its own, while the first has not yet made its folder."""
    out, others = tmp_path / "out", tmp_path / "other.h5"
    if overwrite:
        convert([source], out)
    ours(others, make_truth(6, side=20))
    command = ["convert", f"test={others}", "--out", out, *(["--overwrite"] if overwrite else [])]
    done = []
    before_step(monkeypatch, output_module, "_made", lambda: done.append(type_command("data.py", *command)))
    with pytest.raises(JetmaeError, match="during the conversion"):
        convert([source], out, overwrite=overwrite)
    assert done[0].returncode == 0, done[0].stderr
    manifest = read_manifest(out)
    assert {split: manifest.jets(split) for split in manifest.splits} == {"test": 6}
    assert hidden_folders(tmp_path) == []


def test_the_second_of_two_conversions_is_refused_before_it_reads_anything(tmp_path, monkeypatch):
    source, out, seen = tmp_path / "source.h5", tmp_path / "out", []
    ours(source, make_truth(4, side=20))
    command = ["convert", f"test={source}", "--out", out]
    before_step(monkeypatch, convert_module, "write_shard", lambda: seen.append(type_command("data.py", *command)))
    convert([f"train={source}"], out)
    assert seen[0].returncode == 78
    assert f"another conversion to {out} is at work (process {os.getpid()}" in seen[0].stderr
    assert list(read_manifest(out).splits) == ["train"]
    with h5py.File(out / "train-00000.h5") as file:
        assert file.attrs["jets"] == 4

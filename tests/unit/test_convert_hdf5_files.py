"""Files that cannot be read right now, or not without something: the error says which it is, and what to do."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

import h5py
import hdf5plugin
import numpy as np
import pytest
from source_files import make_truth, ours

from jetmae.data.convert.convert import ConvertOptions, convert
from jetmae.data.convert.hdf5_file import is_hdf5, translated_errors
from jetmae.data.convert.open import open_source
from jetmae.data.convert.source import SourceOptions
from jetmae.data.shards import JetDataset
from jetmae.data.sparse import densify
from jetmae.errors import DataError, PassingFault
from tests.conftest import PROJECT, type_command

JETS = 12
IMAGES = make_truth(JETS, channels=3, side=10).images
CLASS = np.arange(JETS) % 2


def refusal(source: Path | str, **options) -> str:
    with pytest.raises(DataError) as refused:
        open_source(Path(source), SourceOptions(**options))
    assert len(str(refused.value)) < 400 + len(str(source))
    return str(refused.value)


def images_of(source: Path) -> np.ndarray:
    convert([f"train={source}"], source.with_name("out"), verify=True, overwrite=True)
    dataset = JetDataset(source.with_name("out"), "train")
    return densify(dataset.gather(np.arange(len(dataset))), dataset.manifest.image_shape, dataset.manifest.tower_size)


# ---- files in use

WRITER = """
import h5py, sys
file = h5py.File(sys.argv[1], sys.argv[2], libver=sys.argv[3])
if file.mode == "r+":
    array = file.require_dataset("jet", (12, 3, 10, 10), "f4", chunks=(1, 3, 10, 10))
    if sys.argv[4]:
        file.swmr_mode = True
    array[:4] = 1
    file.flush()
print("writing", flush=True)
sys.stdin.read()
"""


class Writer:
    """Another process that has a file open for writing."""

    def __init__(self, path: Path, *, mode: str = "w", libver: str = "earliest", swmr: bool = False):
        command = [sys.executable, "-c", WRITER, path, mode, libver, "swmr" if swmr else ""]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout.readline() == b"writing\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.communicate()

    def die(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.mark.parametrize("libver", ["earliest", "v110", "latest"])
@pytest.mark.parametrize("mode", ["w", "r+"])
def test_a_file_that_is_being_written_is_not_called_damaged(tmp_path, libver, mode):
    source = tmp_path / "source.h5"
    if mode == "r+":
        ours(source, make_truth(12, channels=3, side=10))
    with Writer(source, mode=mode, libver=libver):
        message = refusal(source)
        assert "open for writing in another program (it holds a lock)" in message
        assert "wait" in message
        assert "damaged" not in message


def test_a_file_that_is_written_for_readers_is_not_called_damaged(tmp_path):
    """A writer that lets others read along (SWMR) holds no lock, and leaves its mark in the file."""
    with Writer(tmp_path / "source.h5", libver="latest", swmr=True):
        message = refusal(tmp_path / "source.h5")
    assert "marked as open for writing: wait for the program that writes it" in message
    assert "damaged" not in message


def test_a_mark_that_a_dead_writer_left_can_be_cleared(tmp_path):
    source = tmp_path / "source.h5"
    with Writer(source, libver="latest") as writer:
        writer.die()
    message = refusal(source)
    assert f"h5clear -s {source}" in message
    assert "damaged" not in message


def test_readers_do_not_disturb_each_other(tmp_path):
    ours(tmp_path / "source.h5", make_truth(4, side=10))
    with Writer(tmp_path / "source.h5", mode="r"):
        assert open_source(tmp_path / "source.h5", SourceOptions())[0].rows == 4


@pytest.mark.parametrize("link", ["external link", "virtual"])
def test_a_file_that_is_being_written_behind_a_link_is_named(tmp_path, link):
    with h5py.File(tmp_path / "source.h5", "w") as file:
        if link == "virtual":
            layout = h5py.VirtualLayout(shape=(12, 3, 10, 10), dtype="f4")
            layout[...] = h5py.VirtualSource("part.h5", "jet", shape=(12, 3, 10, 10))
            file.create_virtual_dataset("jet", layout)
        else:
            file["jet"] = h5py.ExternalLink("part.h5", "/jet")
    with Writer(tmp_path / "part.h5"):
        message = refusal(tmp_path / "source.h5")
    assert "part.h5 is open for writing" in message


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("unable to lock file, errno = 11, error message = 'Resource temporarily unavailable'", DataError, "a lock"),
        ("file read failed: errno = 5, error message = 'Input/output error'", PassingFault, "Input/output error"),
        ("file read failed: errno = 116, error message = 'Stale file handle'", PassingFault, "try again"),
        ("truncated file: eof = 3000, sblock->base_addr = 0, stored_eof = 8634", DataError, "truncated"),
        ("bad object header version number", DataError, "damaged"),
        ("x" * 5000, DataError, "damaged"),
    ],
)
def test_what_hdf5_says_is_told_for_what_it_is(text, kind, expected):
    with pytest.raises(kind, match=expected) as told, translated_errors(Path("a.h5"), "jet"):
        raise OSError(text)
    assert len(str(told.value)) < 300


# ---- user blocks


@pytest.mark.parametrize("user_block", [0, 512, 1024, 4096])
def test_a_user_block_before_the_file_is_skipped(tmp_path, user_block):
    for compression in (None, "gzip"):
        with h5py.File(tmp_path / "source.h5", "w", userblock_size=user_block) as file:
            file.create_dataset("jet", data=IMAGES, chunks=(1, 3, 10, 10), compression=compression)
        assert images_of(tmp_path / "source.h5").tobytes() == IMAGES.tobytes()


def test_a_file_without_the_signature_is_no_hdf5(tmp_path):
    (tmp_path / "source.h5").write_bytes(bytes(10_000))
    assert not is_hdf5(tmp_path / "source.h5")
    assert "expected HDF5 or Parquet" in refusal(tmp_path / "source.h5")


# ---- filters

FILTERS = {
    "Blosc": hdf5plugin.Blosc(),
    "Blosc2": hdf5plugin.Blosc2(),
    "Zstandard": hdf5plugin.Zstd(),
    "LZ4": hdf5plugin.LZ4(),
    "bitshuffle": hdf5plugin.Bitshuffle(),
    "bzip2": hdf5plugin.BZip2(),
}


def compressed(path: Path, how) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("jet", data=IMAGES, chunks=(1, 3, 10, 10), **how)
        file.create_dataset("Y", data=CLASS, chunks=(4,), **how)
    return path


@pytest.mark.parametrize("name", FILTERS)
def test_filters_of_hdf5plugin_are_fetched_where_they_are_needed(tmp_path, name):
    """In a process that has not imported it, with it and without."""
    source = compressed(tmp_path / "source.h5", FILTERS[name])
    finished = type_command("data.py", "convert", f"train={source}", "--out", tmp_path / "out", "--verify")
    assert finished.returncode == 0, finished.stderr
    assert "12 jets compared with the sources" in finished.stdout
    code = (
        "import sys; sys.modules['hdf5plugin'] = None\n"
        "from jetmae.cli.data import main\n"
        "from jetmae.errors import exit_with_one_line\n"
        f"sys.argv = ['data.py', 'convert', {str(source)!r}, '--out', {str(tmp_path / 'none')!r}]\n"
        "exit_with_one_line(main)"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src")}
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert finished.returncode == 65
    assert finished.stderr.count("\n") == 1
    code = {"Blosc": 32001, "Blosc2": 32026, "Zstandard": 32015, "LZ4": 32004, "bitshuffle": 32008, "bzip2": 307}[name]
    assert f"is compressed with HDF5 filter {code} ({name}), which is not installed here" in finished.stderr
    assert "pip install hdf5plugin" in finished.stderr


UNKNOWN_FILTER = 305  # of the numbers that are for tests


def with_unknown_filter(path: Path, *, applied: bool) -> Path:
    """As a machine would write it that has the filter, or one that has not and skips it, as it is optional."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((1, 3, 10, 10))
    properties.set_filter(UNKNOWN_FILTER, h5py.h5z.FLAG_OPTIONAL, ())
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple(IMAGES.shape)
        array = h5py.h5d.create(file.id, b"jet", h5py.h5t.IEEE_F32LE, space, properties)
        for row in range(JETS):
            array.write_direct_chunk((row, 0, 0, 0), IMAGES[row].tobytes(), filter_mask=0 if applied else 1)
    return path


def test_a_filter_that_nobody_has_is_named(tmp_path):
    message = refusal(with_unknown_filter(tmp_path / "source.h5", applied=True))
    assert f"filter {UNKNOWN_FILTER}" in message
    assert "h5repack" in message


def test_a_filter_that_was_skipped_is_not_needed(tmp_path):
    assert images_of(with_unknown_filter(tmp_path / "source.h5", applied=False)).tobytes() == IMAGES.tobytes()


# ---- links


def linked(folder: Path, **links: h5py.SoftLink | h5py.ExternalLink) -> Path:
    with h5py.File(folder / "part.h5", "w") as file:
        file["X_jets"], file["y"] = IMAGES, CLASS
    with h5py.File(folder / "source.h5", "w") as file:
        file["real/rows"], file["real/labels"] = IMAGES, CLASS
        for name, link in links.items():
            file[name] = link
    return folder / "source.h5"


def external(name: str, file: str = "part.h5") -> h5py.ExternalLink:
    return h5py.ExternalLink(file, f"/{name}")


def test_links_into_another_file_are_followed_and_named(tmp_path):
    source = linked(tmp_path, X_jets=external("X_jets"), y=external("y"))
    manifest = convert(
        [str(source)], tmp_path / "out", source_options=SourceOptions(image_key="X_jets"), verify=True
    ).manifest
    assert manifest.classes is not None
    provenance = manifest.provenance["sources"][0]
    assert [file["path"] for file in provenance["also_read"]] == [str(tmp_path / "part.h5")]
    assert any("X_jets is a link to /X_jets in" in note for note in provenance["notes"])


def test_links_to_groups_and_within_the_file_are_followed(tmp_path):
    source = linked(tmp_path, images=h5py.SoftLink("/real/rows"), labels=h5py.SoftLink("/real/labels"))
    (part,) = open_source(source, SourceOptions())
    assert part.label_N.tolist() == CLASS.tolist()
    (tmp_path / "group").mkdir()
    source = linked(tmp_path / "group", data=h5py.ExternalLink("part.h5", "/"))
    (part,) = open_source(source, SourceOptions(image_key="data/X_jets"))
    assert part.label_N.tolist() == CLASS.tolist()


def test_links_in_a_circle_end(tmp_path):
    source = linked(tmp_path, back=h5py.SoftLink("/"), itself=h5py.SoftLink("/itself"))
    with h5py.File(source, "a") as file:
        file["real/up"] = h5py.SoftLink("/")
        file["real/again"] = file["real"]
    assert open_source(source, SourceOptions())[0].key == "real/rows"


@pytest.mark.parametrize("name", ["X_jets", "y"])
@pytest.mark.parametrize(
    ("link", "expected"),
    [
        (external("X_jets", "gone.h5"), "a link to /X_jets in gone.h5, a file that is not there"),
        (external("nothing"), "part.h5, which does not have it"),
        (h5py.SoftLink("/nothing"), "a link to /nothing, which this file does not have"),
        (external("X_jets", "damaged.h5"), "damaged.h5 is damaged or truncated HDF5"),
    ],
)
def test_links_that_lead_nowhere_are_refused_where_they_matter(tmp_path, name, link, expected):
    (tmp_path / "damaged.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    source = linked(tmp_path, **{name: link})
    with h5py.File(source, "a") as file:
        del file["real/labels"]  # which would be nearer
    message = refusal(source, image_key=None if name == "X_jets" else "real/rows")
    assert f"{name} is {expected}" in message or expected in message


def test_links_that_nobody_needs_may_lead_nowhere(tmp_path):
    source = linked(tmp_path, backup=external("X_jets", "gone.h5"))
    assert open_source(source, SourceOptions())[0].rows == JETS


def test_a_file_of_nothing_but_broken_links_says_so(tmp_path):
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file["data"] = external("data", "gone.h5")
    assert "data is a link to /data in gone.h5, a file that is not there" in refusal(tmp_path / "source.h5")


def test_a_linked_file_is_found_beside_the_file_whatever_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    source = linked(tmp_path, X_jets=external("X_jets"), y=external("y"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert open_source(Path("..") / source.name, SourceOptions(image_key="X_jets"))[0].rows == JETS


# ---- long lines


def test_a_file_of_many_arrays_is_refused_in_a_short_line(tmp_path):
    with h5py.File(tmp_path / "source.h5", "w") as file:
        for jet in range(300):
            file.create_dataset(f"jet_{jet:05d}/image", (10, 10, 3), "f4")
            file[f"jet_{jet:05d}/label"] = jet % 2
    message = refusal(tmp_path / "source.h5")
    assert "and 598 more" in message
    assert len(message) - len(str(tmp_path)) < 180


def test_long_lists_of_names_are_cut(tmp_path):
    names = [f"channel with a very long name, number {number}" for number in range(500)]
    for file_name, channels in (("a", names), ("b", names[::-1])):
        with h5py.File(tmp_path / f"{file_name}.h5", "w") as file:
            file["jet"] = IMAGES
            file.attrs["channels"] = channels[:300]
    with pytest.raises(DataError) as refused:
        convert([f"train={tmp_path / 'a.h5'}", f"train={tmp_path / 'b.h5'}"], tmp_path / "out")
    assert len(str(refused.value)) - 2 * len(str(tmp_path)) < 600
    with pytest.raises(DataError) as refused:
        convert([f"train={tmp_path / 'a.h5'}"], tmp_path / "out", options=ConvertOptions())
    assert len(str(refused.value)) - len(str(tmp_path)) < 400

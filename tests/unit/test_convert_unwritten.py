"""HDF5 reads values that nobody wrote, in many ways: each is refused, or accepted by an option and counted."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t

from jetmae.data.convert.blank_rows import rows_of
from jetmae.data.convert.convert import ConvertOptions, convert
from jetmae.data.convert.hdf5_storage import storage_of
from jetmae.data.convert.row_ranges import row_ranges
from jetmae.data.convert.source import SourceOptions
from jetmae.data.shards import JetDataset
from jetmae.errors import DataError

JETS, WRITTEN = 24, 8
SHAPE = (3, 10, 10)
IMAGES = np.random.default_rng(1).exponential(size=(JETS, *SHAPE)).astype("f4") * (
    np.random.default_rng(2).random((JETS, *SHAPE)) < 0.1
)
COLUMN = np.arange(JETS) % 2


# ---- files with values that nobody wrote: images


def partly(file: h5py.File, name: str = "X_jets", shape=(JETS, *SHAPE), **how) -> h5py.Dataset:
    """An array of which the first 8 rows are written."""
    array = file.create_dataset(name, shape, "f4", **how)
    array[:WRITTEN] = IMAGES[:WRITTEN] if name == "X_jets" else COLUMN[:WRITTEN]
    return array


def low_level(file: h5py.File, setup: Callable[[h5p.PropDCID], object], *, write: bool = True) -> None:
    """An array with creation properties that h5py's own functions do not offer."""
    properties = h5p.create(h5p.DATASET_CREATE)
    setup(properties)
    array = h5py.Dataset(
        h5d.create(file.id, b"X_jets", h5t.IEEE_F32LE, h5s.create_simple((JETS, *SHAPE)), properties)
    )  # fmt: skip
    if write:
        array[:WRITTEN] = IMAGES[:WRITTEN]


def allocated(time: int, chunk: tuple[int, ...] | None) -> Callable[[h5py.File], None]:
    def setup(properties: h5p.PropDCID) -> None:
        if chunk:
            properties.set_chunk(chunk)
        properties.set_alloc_time(time)

    return lambda file: low_level(file, setup)


def extended(file: h5py.File, chunk: int, first_size: int) -> None:
    array = partly(file, shape=(first_size, *SHAPE), maxshape=(None, *SHAPE), chunks=(chunk, *SHAPE))
    array.resize(JETS, axis=0)


def without_some_channels(file: h5py.File) -> None:
    array = file.create_dataset("X_jets", (JETS, *SHAPE), "f4", chunks=(1, 1, 10, 10))
    array[:WRITTEN], array[WRITTEN:, :2] = IMAGES[:WRITTEN], IMAGES[WRITTEN:, :2]


def compact(file: h5py.File) -> None:
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_layout(h5d.COMPACT)
    space = h5s.create_simple((JETS, *SHAPE))
    array = h5py.Dataset(h5d.create(file.id, b"X_jets", h5t.IEEE_F32LE, space, properties))
    array[:WRITTEN] = IMAGES[:WRITTEN]


def raw_file_too_short(file: h5py.File) -> None:
    raw = Path(file.filename).with_name("raw.bin")
    file.create_dataset("X_jets", (JETS, *SHAPE), "f4", external=[(str(raw), 0, IMAGES.nbytes)])
    raw.write_bytes(IMAGES[:WRITTEN].tobytes())


def two_raw_files_one_too_short(file: h5py.File) -> None:
    first, second = (Path(file.filename).with_name(f"raw{number}.bin") for number in (1, 2))
    sizes = IMAGES[:WRITTEN].nbytes, IMAGES[WRITTEN:].nbytes
    files = [(str(first), 0, sizes[0]), (str(second), 100, h5py.h5f.UNLIMITED)]
    file.create_dataset("X_jets", (JETS, *SHAPE), "f4", external=files)
    first.write_bytes(IMAGES[:WRITTEN].tobytes())
    second.write_bytes(bytes(100))


def source_files(folder: Path, *, of: str = "X_jets", values: np.ndarray = IMAGES, sizes=(8, 8, 8)) -> list[Path]:
    """part0.h5, part1.h5, ...: the array in pieces."""
    paths, borders = [], np.cumsum((0, *sizes))
    for number, (first, last) in enumerate(itertools.pairwise(borders)):
        paths.append(folder / f"part{number}.h5")
        with h5py.File(paths[-1], "w") as part:
            part[of] = values[first:last]
    return paths


def virtual(file: h5py.File, rows: list[tuple[int, int]], name: str = "X_jets", shape=(JETS, *SHAPE)) -> None:
    """Made of rows first..last of part0.h5, part1.h5, ..., all of each file."""
    layout = h5py.VirtualLayout(shape=shape, dtype="f4")
    for number, (first, last) in enumerate(rows):
        layout[first:last] = h5py.VirtualSource(f"part{number}.h5", name, shape=(last - first, *shape[1:]))
    file.create_virtual_dataset(name, layout)


THIRDS = [(0, 8), (8, 16), (16, 24)]


def virtual_without_its_files(file: h5py.File) -> None:
    paths = source_files(Path(file.filename).parent)
    virtual(file, THIRDS)
    paths[1].unlink()
    paths[2].unlink()


def virtual_without_its_arrays(file: h5py.File) -> None:
    paths = source_files(Path(file.filename).parent)
    virtual(file, THIRDS)
    for path in paths[1:]:
        with h5py.File(path, "a") as part:
            part.move("X_jets", "other")


def virtual_with_gaps(file: h5py.File) -> None:
    source_files(Path(file.filename).parent)
    virtual(file, THIRDS[:1])


def virtual_with_gaps_in_every_image(file: h5py.File) -> None:
    source_files(Path(file.filename).parent, sizes=(24,))
    layout = h5py.VirtualLayout(shape=(JETS, *SHAPE), dtype="f4")
    source = h5py.VirtualSource("part0.h5", "X_jets", shape=(JETS, *SHAPE))
    layout[:WRITTEN], layout[WRITTEN:, 1:] = source[:WRITTEN], source[WRITTEN:, 1:]
    file.create_virtual_dataset("X_jets", layout)


def virtual_of_partly_written(file: h5py.File) -> None:
    with h5py.File(Path(file.filename).with_name("part0.h5"), "w") as part:
        partly(part, chunks=(1, *SHAPE), compression="gzip")
    virtual(file, [(0, 24)])


def virtual_of_every_second_row(file: h5py.File) -> None:
    """The rows that nobody wrote lie scattered in the source, and next to each other in the array made of it."""
    with h5py.File(Path(file.filename).with_name("part0.h5"), "w") as part:
        array = part.create_dataset("X_jets", (2 * JETS, *SHAPE), "f4", chunks=(1, *SHAPE))
        array[: 2 * WRITTEN] = IMAGES[: 2 * WRITTEN]
        array[1::2] = IMAGES
    layout = h5py.VirtualLayout(shape=(JETS, *SHAPE), dtype="f4")
    layout[...] = h5py.VirtualSource("part0.h5", "X_jets", shape=(2 * JETS, *SHAPE))[::2]
    file.create_virtual_dataset("X_jets", layout)


def virtual_of_filled_in(file: h5py.File) -> None:
    with h5py.File(Path(file.filename).with_name("part0.h5"), "w") as part:
        partly(part)
    virtual(file, [(0, 24)])


def virtual_of_virtual(file: h5py.File) -> None:
    with h5py.File(Path(file.filename).with_name("middle.h5"), "w") as middle:
        virtual_without_its_files(middle)
    layout = h5py.VirtualLayout(shape=(JETS, *SHAPE), dtype="f4")
    layout[...] = h5py.VirtualSource("middle.h5", "X_jets", shape=(JETS, *SHAPE))
    file.create_virtual_dataset("X_jets", layout)


def virtual_in_the_same_file(file: h5py.File) -> None:
    array = file.create_dataset("rows", (JETS, 300), "f4", chunks=(1, 300))
    array[:WRITTEN] = IMAGES[:WRITTEN].reshape(WRITTEN, 300)
    layout = h5py.VirtualLayout(shape=(JETS, *SHAPE), dtype="f4")
    layout[...] = h5py.VirtualSource(array)
    file.create_virtual_dataset("X_jets", layout)


def virtual_that_grew_faster(file: h5py.File) -> None:
    """Two sources without limit: the array is as long as the longer one."""
    source_files(Path(file.filename).parent, sizes=(24,))
    with h5py.File(Path(file.filename).with_name("part1.h5"), "w") as part:
        part.create_dataset("X_jets", data=IMAGES[:WRITTEN, 2:], maxshape=(None, 1, 10, 10), chunks=(1, 1, 10, 10))
    with h5py.File(Path(file.filename).with_name("part0.h5"), "w") as part:
        part.create_dataset("X_jets", data=IMAGES[:, :2], maxshape=(None, 2, 10, 10), chunks=(1, 2, 10, 10))
    properties, space = h5p.create(h5p.DATASET_CREATE), h5s.create_simple((JETS, *SHAPE), (h5s.UNLIMITED, *SHAPE))
    for number, (first, channels) in enumerate([(0, 2), (2, 1)]):
        space.select_hyperslab((0, first, 0, 0), (1, 1, 1, 1), block=(h5s.UNLIMITED, channels, 10, 10))
        source = h5s.create_simple((JETS, channels, 10, 10), (h5s.UNLIMITED, channels, 10, 10))
        source.select_hyperslab((0, 0, 0, 0), (1, 1, 1, 1), block=(h5s.UNLIMITED, channels, 10, 10))
        properties.set_virtual(space, f"part{number}.h5".encode(), b"X_jets", source)
    h5d.create(file.id, b"X_jets", h5t.IEEE_F32LE, space, properties)


@dataclass(frozen=True)
class Hole:
    """A way to write a file, and what of it nobody wrote."""

    write: Callable[[h5py.File], object]
    array: str = "X_jets"
    rows: str = "8-23"
    recorded: bool = True
    """Whether HDF5 knows it; else it only shows in what the rows read as."""
    libver: str = "earliest"


ONE = {"chunks": (1, *SHAPE)}
IMAGE_HOLES = {
    "chunks of one row": Hole(lambda f: partly(f, **ONE)),
    "gzip": Hole(lambda f: partly(f, **ONE, compression="gzip")),
    "shuffle and gzip": Hole(lambda f: partly(f, **ONE, compression="gzip", shuffle=True)),
    "chunks of parts of images": Hole(lambda f: partly(f, chunks=(1, 2, 5, 5))),
    "some channels": Hole(without_some_channels),
    "chunks of eight rows": Hole(lambda f: partly(f, chunks=(8, *SHAPE))),
    "chunks of sixteen rows, the first half full": Hole(lambda f: partly(f, chunks=(24, *SHAPE)), recorded=False),
    "nothing in one chunk": Hole(lambda f: f.create_dataset("X_jets", (JETS, *SHAPE), "f4", chunks=(24, *SHAPE)),
                                 rows="0-23"),
    "index of fixed size": Hole(lambda f: partly(f, **ONE), libver="latest"),
    "index that grows": Hole(lambda f: partly(f, **ONE, maxshape=(None, *SHAPE)), libver="latest"),
    "index that grows twice": Hole(lambda f: partly(f, **ONE, maxshape=(None, None, 10, 10)), libver="latest"),
    "extended": Hole(lambda f: extended(f, 4, 8)),
    "extended, latest": Hole(lambda f: extended(f, 1, 8), libver="latest"),
    "extended within a chunk": Hole(lambda f: extended(f, 24, 8), recorded=False),
    "chunks made early": Hole(allocated(h5d.ALLOC_TIME_EARLY, (1, *SHAPE)), recorded=False),
    "chunks made early, latest": Hole(allocated(h5d.ALLOC_TIME_EARLY, (1, *SHAPE)), recorded=False, libver="latest"),
    "chunks made late": Hole(allocated(h5d.ALLOC_TIME_LATE, (1, *SHAPE)), recorded=False),
    "chunks made when needed": Hole(allocated(h5d.ALLOC_TIME_INCR, (1, *SHAPE))),
    "contiguous, nothing written": Hole(lambda f: f.create_dataset("X_jets", (JETS, *SHAPE), "f4"), rows="0-23"),
    "contiguous, partly written": Hole(partly, recorded=False),
    "contiguous, made early": Hole(allocated(h5d.ALLOC_TIME_EARLY, None), recorded=False),
    "compact": Hole(compact, recorded=False),
    "fill value -1": Hole(lambda f: partly(f, **ONE, fillvalue=-1)),
    "fill value -1, contiguous": Hole(lambda f: partly(f, fillvalue=-1), recorded=False),
    "fill value -1, one row": Hole(lambda f: partly(f, fillvalue=-1).write_direct(IMAGES, np.s_[:23], np.s_[:23]),
                                   rows="23", recorded=False),
    "no fill value": Hole(lambda f: partly(f, **ONE, fill_time="never")),
    "raw file too short": Hole(raw_file_too_short),
    "one of two raw files too short": Hole(two_raw_files_one_too_short),
    "virtual, files missing": Hole(virtual_without_its_files),
    "virtual, arrays missing": Hole(virtual_without_its_arrays),
    "virtual with gaps": Hole(virtual_with_gaps),
    "virtual with gaps in every image": Hole(virtual_with_gaps_in_every_image),
    "virtual of partly written": Hole(virtual_of_partly_written),
    "virtual of every second row": Hole(virtual_of_every_second_row),
    "virtual of filled in": Hole(virtual_of_filled_in, recorded=False),
    "virtual of virtual": Hole(virtual_of_virtual),
    "virtual in the same file": Hole(virtual_in_the_same_file),
    "virtual that grew faster": Hole(virtual_that_grew_faster, libver="latest"),
}  # fmt: skip


# ---- labels, masses and pT


def column_hole(name: str, how: str) -> Hole:
    def write(file: h5py.File) -> None:
        file["X_jets"] = IMAGES
        if name != "y":
            file["y"] = COLUMN
        if how == "nothing written":
            file.create_dataset(name, (JETS,), "f4")
        elif how == "chunks":
            partly(file, name, (JETS,), chunks=(8,))
        elif how == "fill value":
            partly(file, name, (JETS,), fillvalue=-999)
        else:
            source_files(Path(file.filename).parent, of=name, values=COLUMN)[2].unlink()
            virtual(file, THIRDS, name, (JETS,))

    rows = {"nothing written": "0-23", "virtual": "16-23"}.get(how, "8-23")
    return Hole(write, array=name, rows=rows)


def table_hole(file: h5py.File) -> None:
    file["jet"] = IMAGES
    table = file.create_dataset("meta", (JETS, 3), "f4", chunks=(1, 3))
    table[:WRITTEN] = np.stack([COLUMN, COLUMN + 150, COLUMN + 500], axis=1)[:WRITTEN]


def words_hole(file: h5py.File) -> None:
    file["X_jets"] = IMAGES
    words = file.create_dataset("y", (JETS,), h5py.string_dtype(), chunks=(8,))
    words[:WRITTEN] = ["qcd", "top"] * 4


COLUMN_HOLES = {
    f"{name}, {how}": column_hole(name, how)
    for name in ("y", "m0", "pt")
    for how in ("nothing written", "chunks", "fill value", "virtual")
} | {"table": Hole(table_hole, array="meta"), "words": Hole(words_hole, array="y")}

HOLES = IMAGE_HOLES | COLUMN_HOLES
WITHOUT_MEANING = {  # what was never written cannot even be taken as it reads: no number, or no class
    "no fill value", "y, fill value", "words",
}  # fmt: skip


@pytest.fixture(params=HOLES)
def hole(request, tmp_path) -> tuple[str, Hole, Path]:
    hole = HOLES[request.param]
    with h5py.File(tmp_path / "source.h5", "w", libver=hole.libver) as file:
        hole.write(file)
    return request.param, hole, tmp_path / "source.h5"


def test_rows_that_nobody_wrote_are_refused_unless_they_are_allowed(hole, tmp_path):
    name, hole, source = hole
    with pytest.raises(DataError) as refused:
        convert([f"train={source}"], tmp_path / "out")
    message = str(refused.value)
    assert message.startswith(f"source {source}: {hole.array}: ")
    assert f"rows {hole.rows} " in message
    assert "--allow-unwritten" in message
    assert len(message) < 400 + len(str(source))
    assert not (tmp_path / "out").exists()
    if name not in WITHOUT_MEANING:
        result = convert([f"train={source}"], tmp_path / "out", source_options=SourceOptions(allow_unwritten=True))
        told = [note for note in result.notes if f"{hole.array}: rows {hole.rows} were never written" in note]
        assert bool(told) == hole.recorded
        assert result.constant_images if not hole.recorded else "rows are taken as they read" in told[0]


# ---- what is whole is taken


def complete(file: h5py.File, **how) -> None:
    file.create_dataset("X_jets", data=IMAGES, **how)


def emptied(rows: list[int], **how) -> Callable[[h5py.File], None]:
    """Jets without a hit that somebody did write."""
    images = IMAGES.copy()
    images[rows] = 0
    return lambda file: file.create_dataset("X_jets", data=images, **how)


def raw_file(file: h5py.File) -> None:
    raw = str(Path(file.filename).with_name("raw.bin"))
    file.create_dataset("X_jets", (JETS, *SHAPE), "f4", external=[(raw, 0, IMAGES.nbytes)])[...] = IMAGES


def virtual_whole(file: h5py.File) -> None:
    source_files(Path(file.filename).parent)
    virtual(file, THIRDS)


def virtual_interleaved(file: h5py.File) -> None:
    folder = Path(file.filename).parent
    for number in (0, 1):
        with h5py.File(folder / f"part{number}.h5", "w") as part:
            part["X_jets"] = IMAGES[number::2]
    layout = h5py.VirtualLayout(shape=(JETS, *SHAPE), dtype="f4")
    for number in (0, 1):
        layout[number::2] = h5py.VirtualSource(f"part{number}.h5", "X_jets", shape=(12, *SHAPE))
    file.create_virtual_dataset("X_jets", layout)


def virtual_of_single_images(file: h5py.File) -> None:
    """One file per jet."""
    layout = h5py.VirtualLayout(shape=(JETS, *SHAPE), dtype="f4")
    for row in range(JETS):
        with h5py.File(Path(file.filename).with_name(f"jet{row}.h5"), "w") as jet:
            jet["image"] = IMAGES[row]
        layout[row] = h5py.VirtualSource(f"jet{row}.h5", "image", shape=SHAPE)
    file.create_virtual_dataset("X_jets", layout)


def virtual_by_number(file: h5py.File) -> None:
    """part0.h5, part1.h5, ... as many as there are."""
    source_files(Path(file.filename).parent)
    properties, space = h5p.create(h5p.DATASET_CREATE), h5s.create_simple((JETS, *SHAPE), (h5s.UNLIMITED, *SHAPE))
    space.select_hyperslab((0, 0, 0, 0), (h5s.UNLIMITED, 1, 1, 1), (8, *SHAPE), (8, *SHAPE))
    properties.set_virtual(space, b"part%b.h5", b"X_jets", h5s.create_simple((8, *SHAPE)))
    h5d.create(file.id, b"X_jets", h5t.IEEE_F32LE, space, properties)


WHOLE = {
    "contiguous": complete,
    "early": allocated(h5d.ALLOC_TIME_EARLY, (1, *SHAPE)),
    "empty jets, chunks of one row": emptied([3, 4, 5, 20, 21, 22, 23], chunks=(1, *SHAPE)),
    "empty jets, gzip": emptied([3, 4, 5, 20, 21, 22, 23], chunks=(1, *SHAPE), compression="gzip"),
    "empty jets here and there, contiguous": emptied([3, 7, 23]),
    "raw file": raw_file,
    "virtual": virtual_whole,
    "virtual, interleaved": virtual_interleaved,
    "virtual of single images": virtual_of_single_images,
    "virtual by number": virtual_by_number,
}


@pytest.mark.parametrize("write", WHOLE.values(), ids=WHOLE)
def test_what_was_written_is_taken_even_if_it_is_empty(tmp_path, write):
    source = tmp_path / "source.h5"
    with h5py.File(source, "w", libver="latest") as file:
        write(file)
        if write is WHOLE["early"]:
            file["X_jets"][...] = IMAGES
    result = convert([f"train={source}"], tmp_path / "out", verify=True)
    assert result.jets == JETS
    assert not [note for note in result.notes if "written" in note]


def test_files_that_values_come_from_are_in_the_provenance(tmp_path):
    with h5py.File(tmp_path / "source.h5", "w") as file:
        virtual_whole(file)
    options = ConvertOptions(hash_sources=True)
    manifest = convert([f"train={tmp_path / 'source.h5'}"], tmp_path / "out", options=options).manifest
    files = manifest.provenance["sources"][0]["also_read"]
    assert [Path(file["path"]).name for file in files] == ["part0.h5", "part1.h5", "part2.h5"]
    assert all(len(file["sha256"]) == 64 for file in files)


# ---- what no option helps with


def refused_all_the_same(folder: Path) -> None:
    convert([f"train={folder / 'source.h5'}"], folder / "out", source_options=SourceOptions(allow_unwritten=True))


def test_a_raw_file_that_is_gone_is_named(tmp_path):
    with h5py.File(tmp_path / "source.h5", "w") as file:
        raw_file(file)
    (tmp_path / "raw.bin").unlink()
    with pytest.raises(DataError, match=r"X_jets keeps its values in .*raw\.bin, a raw file that is not there"):
        convert(
            [f"train={tmp_path / 'source.h5'}"], tmp_path / "out", source_options=SourceOptions(allow_unwritten=True)
        )


def test_a_number_that_is_missing_in_between_is_named(tmp_path):
    """HDF5 would end the array before it, and say nothing of the files that follow."""
    with h5py.File(tmp_path / "source.h5", "w", libver="latest") as file:
        virtual_by_number(file)
    (tmp_path / "part1.h5").unlink()
    with pytest.raises(DataError, match=r"block 1 is missing though later ones are there"):
        convert([f"train={tmp_path / 'source.h5'}"], tmp_path / "out")


@pytest.mark.parametrize("shape", [(4, *SHAPE), (8, 3, 10, 9), (8, 300), (8, *SHAPE, 1)])
def test_a_source_of_another_shape_is_named(tmp_path, shape):
    """HDF5 reads what follows such an array in its file, whatever that is."""
    layout = h5py.VirtualLayout(shape=(JETS, *SHAPE), dtype="f4")
    layout[...] = h5py.VirtualSource("part0.h5", "X_jets", shape=(30, *SHAPE))[6:]
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file.create_virtual_dataset("X_jets", layout)
    with h5py.File(tmp_path / "part0.h5", "w") as part:
        part["X_jets"] = np.ones(shape, "f4")
    with pytest.raises(DataError, match=r"made of X_jets of part0\.h5, whose shape .* does not fit"):
        refused_all_the_same(tmp_path)


def test_a_whole_source_of_another_size_is_named(tmp_path):
    with h5py.File(tmp_path / "source.h5", "w") as file:
        virtual_whole(file)
    with h5py.File(tmp_path / "part1.h5", "w") as part:
        part["X_jets"] = IMAGES[:4]
    with pytest.raises(DataError, match=r"made of X_jets of part1\.h5, whose shape \(4, 3, 10, 10\) does not fit"):
        refused_all_the_same(tmp_path)


def test_a_fill_value_that_is_no_number_is_refused_where_it_is_read(tmp_path):
    with h5py.File(tmp_path / "source.h5", "w") as file:
        partly(file, fillvalue=np.nan)
    with pytest.raises(DataError, match=r"X_jets: row 8, channel 0, pixel \(0, 0\) is nan"):
        refused_all_the_same(tmp_path)


def test_a_virtual_array_of_itself_is_refused(tmp_path):
    with h5py.File(tmp_path / "part0.h5", "w") as file:
        virtual(file, [(0, 24)])
    with pytest.raises(DataError, match="is made of itself"):
        convert([f"train={tmp_path / 'part0.h5'}"], tmp_path / "out")


# ---- by themselves


def test_rows_that_a_virtual_array_lacks_are_those_that_read_as_its_fill_value(tmp_path):
    """Against HDF5 itself, over many random selections: ones are written, and what is not reads as nine."""
    generator = np.random.default_rng(5)
    for trial in range(60):
        folder = tmp_path / str(trial)
        folder.mkdir()
        layout = h5py.VirtualLayout(shape=(12, 4), dtype="i4")
        for number in range(2):
            with h5py.File(folder / f"{number}.h5", "w") as part:
                array = part.create_dataset("a", (10, 6), "i4", chunks=(1, 2), fillvalue=9)
                for row in generator.permutation(10)[: generator.integers(5, 11)]:
                    array[row] = 1
            start, step, columns = generator.integers(0, 3), generator.integers(1, 4), generator.integers(1, 5)
            rows = len(range(start, 10, step))
            first = generator.integers(0, 13 - rows)
            source = h5py.VirtualSource(f"{number}.h5", "a", shape=(10, 6))
            layout[first : first + rows, :columns] = source[start::step, 6 - columns :]
        with h5py.File(folder / "virtual.h5", "w") as file:
            file.create_virtual_dataset("a", layout, fillvalue=9)
        with h5py.File(folder / "virtual.h5") as file:
            expected = (file["a"][()] == 9).any(axis=1)
            found = storage_of(file["a"], folder / "virtual.h5").unwritten_N
        assert found.tolist() == expected.tolist() or _overlaps(found, expected)


def _overlaps(found: np.ndarray, expected: np.ndarray) -> bool:
    """Where two sources are for one place, HDF5 takes one of them; we want both to be whole."""
    return bool((found | ~expected).all())


def test_blank_rows_are_found_wherever_their_hits_are():
    block = np.zeros((6, 100_000), dtype="f4")
    block[1, 0] = block[2, 99_999] = block[4, 50_000] = 1
    assert rows_of(0, block).tolist() == [True, False, False, True, False, True]
    assert rows_of(np.nan, block * np.nan).all()


@pytest.mark.parametrize(
    ("rows", "text"),
    [([5], "5"), ([8, 9, 10], "8-10"), ([0, 2, 3, 7], "0, 2-3, 7"), ([0, 2, 4, 6, 7, 9], "0, 2, 4 and 3 more")],
)
def test_rows_are_told_as_ranges(rows, text):
    assert row_ranges(rows) == text


def test_the_layout_with_unwritten_rows_taken_as_they_read_holds_them(tmp_path):
    with h5py.File(tmp_path / "source.h5", "w") as file:
        partly(file, **ONE)
    options = SourceOptions(allow_unwritten=True)
    convert([f"train={tmp_path / 'source.h5'}"], tmp_path / "out", source_options=options, verify=True)
    dataset = JetDataset(tmp_path / "out", "train")
    assert [int(shard.count_NC[WRITTEN:].sum()) for shard in dataset.shards] == [0]

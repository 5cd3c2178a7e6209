"""The label is found by its name, read in whatever form it is written, and never guessed or lost without a word."""

from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from jetmae.data.convert.convert import Conversion, convert
from jetmae.data.convert.labels import is_one_hot, looks_like_labels, read_labels
from jetmae.data.convert.source import SourceOptions
from jetmae.data.shards import JetDataset
from jetmae.errors import DataError

JETS = 24
IMAGES = np.random.default_rng(3).exponential(size=(JETS, 3, 8, 8)).astype("f4")
CLASS = np.random.default_rng(4).permutation(np.arange(JETS) % 2)
WORDS = np.array(["qcd", "top"])[CLASS]
VLEN = h5py.vlen_dtype(np.int32)


def hdf5(path: Path, image_key: str = "X_jets", **columns) -> Path:
    with h5py.File(path, "w") as file:
        file[image_key] = IMAGES
        for name, values in columns.items():
            key = name.replace("__", "/")
            if isinstance(values, list):
                file.create_dataset(key, data=values, dtype=h5py.string_dtype())
            else:
                file[key] = values
    return path


def of_parquet(path: Path, **columns) -> Path:
    kind = pa.list_(pa.list_(pa.list_(pa.float32())))
    parquet.write_table(pa.table({"X_jets": pa.array(IMAGES.tolist(), type=kind), **columns}), path)
    return path


def converted(source: Path | str, **options) -> tuple[Conversion, np.ndarray | None]:
    """The conversion, and the label of each row if there are labels."""
    folder = Path(str(source).rpartition("=")[2]).with_name("out")
    result = convert([str(source)], folder, source_options=SourceOptions(**options), verify=True, overwrite=True)
    datasets = [JetDataset(folder, split) for split in result.manifest.splits]
    if any(dataset.column("label") is None for dataset in datasets):
        return result, None
    rows = np.concatenate([dataset.column("row") for dataset in datasets])
    return result, np.concatenate([dataset.column("label") for dataset in datasets])[np.argsort(rows)]


def refusal(source: Path | str, **options) -> str:
    with pytest.raises(DataError) as refused:
        converted(source, **options)
    message = str(refused.value)
    assert len(message) < 400 + len(str(source))
    assert "np." not in message
    return message


# ---- every form of the same labels


@pytest.mark.parametrize(
    "name",
    ["y", "Y", "label", "labels", "target", "is_signal", "isSignal", "IS_SIGNAL_NEW", "is_top", "truth_label", "class"],
)
def test_a_label_is_known_by_its_name(tmp_path, name):
    result, label = converted(hdf5(tmp_path / "source.h5", **{name: CLASS, "m0": CLASS + 150.5}))
    assert label.tolist() == CLASS.tolist()
    assert f"label {name} " in result.plan[0].part.layout
    _, label = converted(of_parquet(tmp_path / "source.parquet", **{name: CLASS, "m0": CLASS + 150.5}))
    assert label.tolist() == CLASS.tolist()


def as_lists(values: np.ndarray, dtype: np.dtype = VLEN) -> np.ndarray:
    lists = np.empty(JETS, dtype=dtype)
    lists[:] = [np.array([value], dtype=np.int32) for value in values]
    return lists


HDF5_FORMS = {
    "int64": CLASS,
    "uint8": CLASS.astype("u1"),
    "float16": CLASS.astype("f2"),
    "big-endian": CLASS.astype(">i4"),
    "bool": CLASS.astype(bool),
    "a column of a table of one": CLASS[:, None],
    "lists of one": as_lists(CLASS),
    "words": WORDS.tolist(),
    "bytes": WORDS.astype("S"),
    "bytes with blanks behind": np.char.ljust(WORDS, 8).astype("S"),
    "words in a table of one": WORDS.astype("S")[:, None],
    "one-hot": np.eye(2, dtype="f4")[CLASS],
    "one-hot, bool": np.eye(2, dtype=bool)[CLASS],
    "enumeration": CLASS.astype(h5py.enum_dtype({"qcd": 0, "top": 1}, basetype="i1")),
}


@pytest.mark.parametrize("values", HDF5_FORMS.values(), ids=HDF5_FORMS)
def test_every_form_of_labels_in_hdf5_says_the_same(tmp_path, values):
    result, label = converted(hdf5(tmp_path / "source.h5", y=values))
    assert label.tolist() == CLASS.tolist()
    named = np.asarray(values).dtype.kind in "US" or h5py.check_enum_dtype(np.asarray(values).dtype)
    assert result.manifest.classes == (("qcd", "top") if named else ("class 0", "class 1"))


PARQUET_FORMS = {
    "int64": pa.array(CLASS),
    "float": pa.array(CLASS.astype("f4")),
    "bool": pa.array(CLASS.astype(bool)),
    "lists of one": pa.array([[int(value)] for value in CLASS]),
    "fixed lists of one": pa.array([[int(value)] for value in CLASS], type=pa.list_(pa.int8(), 1)),
    "words": pa.array(WORDS.tolist()),
    "large words": pa.array(WORDS.tolist(), type=pa.large_string()),
    "bytes": pa.array([word.encode() for word in WORDS.tolist()]),
    "words by number": pa.array(WORDS.tolist()).dictionary_encode(),
    "lists of one word": pa.array([[word] for word in WORDS.tolist()]),
    "one-hot": pa.array(np.eye(2)[CLASS].tolist()),
}


@pytest.mark.parametrize("values", PARQUET_FORMS.values(), ids=PARQUET_FORMS)
def test_every_form_of_labels_in_parquet_says_the_same(tmp_path, values):
    result, label = converted(of_parquet(tmp_path / "source.parquet", y=values))
    assert label.tolist() == CLASS.tolist()
    assert ("qcd" in result.manifest.classes) == ("string" in str(values.type) or "binary" in str(values.type))


# ---- where it stands


@pytest.mark.parametrize(
    ("images", "label"),
    [
        ("all_events/images", "all_events__labels"),
        ("a/b/c/images", "a__b__c__y"),
        ("a/b/c/images", "a__y"),
        ("data/images", "labels"),
        ("data/images", "truth__labels"),
    ],
)
def test_labels_are_found_in_the_images_own_group_and_beyond(tmp_path, images, label):
    result, found = converted(hdf5(tmp_path / "source.h5", image_key=images, **{label: CLASS, "m__mass": CLASS + 99.5}))
    assert found.tolist() == CLASS.tolist()
    assert f"label {label.replace('__', '/')} " in result.plan[0].part.layout
    assert "mass m/mass" in result.plan[0].part.layout


def test_the_nearest_labels_count(tmp_path):
    others = {"other__y": 1 - CLASS, "y": 1 - CLASS, "events__y": CLASS}
    assert converted(hdf5(tmp_path / "source.h5", image_key="events/images", **others))[1].tolist() == CLASS.tolist()


def test_labels_of_another_length_far_away_are_others(tmp_path):
    assert converted(hdf5(tmp_path / "source.h5", other__y=CLASS[:7]))[1] is None


def test_one_array_under_two_names_is_one_label(tmp_path):
    source = hdf5(tmp_path / "source.h5", y=CLASS)
    with h5py.File(source, "a") as file:
        file["label"] = file["y"]
        file["a_copy_of_the_name"] = h5py.SoftLink("/X_jets")
    assert converted(source)[1].tolist() == CLASS.tolist()


# ---- what is no label


@pytest.mark.parametrize("write", [hdf5, of_parquet])
def test_a_column_with_one_value_is_no_label(tmp_path, write):
    result, label = converted(write(tmp_path / "source", runId=np.ones(JETS, int), isMC=np.ones(JETS, bool)))
    assert label is None
    assert list(result.manifest.splits) == ["unlabelled_train", "unlabelled_validation", "unlabelled_test"]


@pytest.mark.parametrize("write", [hdf5, of_parquet])
@pytest.mark.parametrize("values", [CLASS, CLASS.astype(bool), CLASS.astype("f4")])
def test_what_only_looks_like_labels_is_suggested_not_taken(tmp_path, write, values):
    """A trigger bit looks the same."""
    source = write(tmp_path / "source", trigger=values, runId=np.ones(JETS), charge=CLASS * 2 - 1)
    message = refusal(source)
    assert "trigger could be the label" in message
    assert "runId" not in message
    assert "--label-key" in message
    assert converted(source, label_key="trigger")[1].tolist() == CLASS.tolist()
    assert converted(f"unlabelled={source}")[1] is None


def test_words_that_look_like_labels_are_suggested(tmp_path):
    source = hdf5(tmp_path / "source.h5", process=WORDS.tolist(), event=[f"event {row}" for row in range(JETS)])
    assert "but process could be the label" in refusal(source)


def test_of_two_labels_the_user_names_one(tmp_path):
    source = hdf5(tmp_path / "source.h5", y=CLASS, target=1 - CLASS)
    assert "y, target could all be the label" in refusal(source)
    assert converted(source, label_key="target")[1].tolist() == (1 - CLASS).tolist()
    source = hdf5(tmp_path / "source.h5", y=CLASS, target=np.zeros(JETS))
    assert converted(source)[1].tolist() == CLASS.tolist()


@pytest.mark.parametrize("options", [{}, {"label_key": "y"}])
def test_a_file_of_one_class_needs_a_split_or_the_other_class(tmp_path, options):
    for number, name in enumerate(["qcd", "top"]):
        hdf5(tmp_path / f"{name}.h5", y=np.full(JETS, number))
    assert "all labels are 1, expected jets of two classes" in refusal(tmp_path / "top.h5", **options)
    result, label = converted(f"test={tmp_path / 'top.h5'}", **options)
    assert label.tolist() == [1] * JETS
    assert "all 24 labels of X_jets are 1 (class 1)" in result.notes[0]
    both = [str(tmp_path / f"{name}.h5") for name in ("qcd", "top")]
    assert convert(both, tmp_path / "both", source_options=SourceOptions(**options)).jets == 2 * JETS


def test_unlabelled_files_may_hold_any_labels(tmp_path):
    source = hdf5(tmp_path / "source.h5", y=np.eye(3)[np.arange(JETS) % 3], target=CLASS, pt=CLASS + 400.5)
    result, label = converted(f"unlabelled={source}")
    assert label is None
    assert "pt pt" in result.plan[0].part.layout


# ---- words


def test_the_order_of_words_is_said_and_can_be_set(tmp_path):
    source = hdf5(tmp_path / "source.h5", y=np.array(["top", "a_gluon"])[CLASS].tolist())
    result, label = converted(source)
    assert result.manifest.classes == ("a_gluon", "top")
    assert label.tolist() == (1 - CLASS).tolist()
    assert "label words: 0 = a_gluon, 1 = top; the last is the signal; --classes sets another order" in result.notes
    result, label = converted(source, classes=("top", "a_gluon"))
    assert (result.manifest.classes, label.tolist()) == (("top", "a_gluon"), CLASS.tolist())
    assert not result.notes


def test_words_are_numbered_alike_in_all_files(tmp_path):
    hdf5(tmp_path / "a.h5", y=["top"] * JETS)
    of_parquet(tmp_path / "b.parquet", y=["qcd"] * JETS)
    sources = [f"train={tmp_path / 'a.h5'}", f"train={tmp_path / 'b.parquet'}"]
    manifest = convert(sources, tmp_path / "out", verify=True).manifest
    assert manifest.classes == ("qcd", "top")
    assert JetDataset(tmp_path / "out", "train").column("label").tolist() == [1] * JETS + [0] * JETS


def test_words_that_are_not_two_classes_are_named(tmp_path):
    three = hdf5(tmp_path / "source.h5", y=["qcd", "top", "w"] * 8)
    assert "3 different words (qcd, top, w), expected two" in refusal(three)
    assert "labels say w, which is none of the classes qcd, top" in refusal(three, classes=("qcd", "top"))
    assert converted(three, classes=("w", "qcd", "top"))[1].tolist()[:3] == [1, 2, 0]
    many = hdf5(tmp_path / "many.h5", y=[f"event {row}" for row in range(JETS)])
    assert "and 20 more" in refusal(many)
    one = hdf5(tmp_path / "one.h5", y=["top"] * JETS)
    assert "1 different words (top), expected two" in refusal(f"test={one}")
    assert converted(f"test={one}", classes=("qcd", "top"))[1].tolist() == [1] * JETS


def test_words_and_numbers_do_not_mix(tmp_path):
    hdf5(tmp_path / "a.h5", y=WORDS.tolist())
    hdf5(tmp_path / "b.h5", y=CLASS)
    with pytest.raises(DataError, match=r"words \(qcd, top\) in .*a\.h5 and numbers in .*b\.h5"):
        convert([f"train={tmp_path / name}.h5" for name in "ab"], tmp_path / "out")


def test_a_row_without_a_word_is_named(tmp_path):
    words = WORDS.tolist()
    words[5] = "  "
    assert "y: row 5 has no word" in refusal(hdf5(tmp_path / "source.h5", y=words))
    assert "y has 1 missing values" in refusal(
        of_parquet(tmp_path / "source.parquet", y=[*words[:5], None, *words[6:]])
    )


# ---- columns side by side


@pytest.mark.parametrize("write", [hdf5, of_parquet])
@pytest.mark.parametrize("key", ["y", "target"])
def test_one_hot_of_three_is_refused_and_neither_mass_nor_pt(tmp_path, write, key):
    three = np.eye(3, dtype="f4")[np.arange(JETS) % 3]
    source = write(tmp_path / "source", **{key: three if write is hdf5 else three.tolist()})
    assert f"{key} is one-hot of 3 classes, expected 2" in refusal(source)
    result, label = converted(source, classes=("qcd", "top", "w"))
    assert label.tolist() == [0, 1, 2] * 8
    part = result.plan[0].part
    assert part.mass_N is None
    assert part.pt_N is None


def test_a_table_of_flags_has_neither_mass_nor_pt(tmp_path):
    flags = np.stack([CLASS, np.roll(CLASS, 1), np.roll(CLASS, 2)], axis=1)
    source = hdf5(tmp_path / "source.h5", meta=flags)
    assert "both of the first and last column" in refusal(source)
    result, label = converted(source, label_column="last")
    assert label.tolist() == flags[:, 2].tolist()
    assert result.plan[0].part.mass_N is None


def test_a_column_of_a_one_hot_table_can_be_named(tmp_path):
    source = hdf5(tmp_path / "source.h5", y=np.eye(2)[CLASS])
    assert converted(source, label_column="first")[1].tolist() == (1 - CLASS).tolist()


# ---- what is no label at all


UNUSABLE = {
    "records": np.zeros(JETS, dtype=[("y", "i4"), ("m", "f4")]),
    "complex": CLASS + 0j,
    "lists of many lengths": np.array([np.zeros(row % 3) for row in range(JETS)], dtype=object).astype(
        h5py.vlen_dtype(np.float32)
    ),
    "lists of words and numbers": np.zeros((JETS, 2, 2)),
}


@pytest.mark.parametrize("values", UNUSABLE.values(), ids=UNUSABLE)
def test_labels_that_are_none_are_refused_in_one_line(tmp_path, values):
    assert "source.h5: y " in refusal(hdf5(tmp_path / "source.h5", y=values))
    assert converted(hdf5(tmp_path / "other.h5", flag=values))[1] is None


@pytest.mark.parametrize(
    "values", [pa.array([{"a": 1}] * JETS), pa.array([None, *[1] * 23]), pa.array([[1]] * 23 + [[1, 2]])]
)
def test_columns_of_parquet_that_are_no_labels_are_refused_in_one_line(tmp_path, values):
    assert "source.parquet: y " in refusal(of_parquet(tmp_path / "source.parquet", y=values)).replace("y:", "y ")
    assert converted(of_parquet(tmp_path / "other.parquet", flag=values))[1] is None


def test_masses_that_are_words_are_refused(tmp_path):
    assert "m0 holds" in refusal(hdf5(tmp_path / "source.h5", y=CLASS, m0=["heavy"] * JETS))


def test_images_that_are_words_are_refused(tmp_path):
    table = pa.table({"X_jets": [["a", "b"]] * 4})
    parquet.write_table(table, tmp_path / "source.parquet")
    assert "X_jets holds string values" in refusal(tmp_path / "source.parquet")


@pytest.mark.parametrize("first", [None, [], [[]]])
def test_a_first_image_without_values_is_refused(tmp_path, first):
    kind = pa.list_(pa.list_(pa.list_(pa.float32())))
    images = pa.array([first, *IMAGES[1:4].tolist()], type=kind)
    parquet.write_table(pa.table({"X_jets": images}), tmp_path / "source.parquet")
    assert "X_jets holds" in refusal(tmp_path / "source.parquet")


# ---- by itself


def test_labels_by_themselves():
    assert not is_one_hot(np.array([[0.0, 1.0], [0.0, 0.0]]))
    assert not is_one_hot(np.array([[0.5, 0.5]]))
    assert not looks_like_labels(np.array([0, 1, 2]))
    assert not looks_like_labels(np.array([1, 2]))
    assert looks_like_labels(np.array([[1, 0], [0, 1]]))
    assert read_labels(np.array(["b", "a"]), "y").words == ("a", "b")

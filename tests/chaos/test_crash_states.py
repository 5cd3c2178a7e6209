"""Power failures at every operation of a run: nothing is ever found but what was promised."""

import random

import pytest

from jetmae.engine import recorder as sinks
from jetmae.records.json_lines import read_lines
from tests.chaos.crash_states import check, explore, scratch
from tests.chaos.disk import Disk, Flush, Make, Remove, Rename, Truncate, Write
from tests.chaos.recorder import Recorder
from tests.chaos.tally import Tally
from tests.chaos.tapes import Tape, cuts_of, go_on_after, whole_lives

NOT_NEEDED = {
    "Flush .LAST.N.partial by written_aside > fsync": "LAST is for people; loading looks at what is there",
    "Flush checkpoints by written_aside > fsync": "the name of LAST",
    "Flush ..lease-N.json.N.partial by written_aside > fsync": "a lease that cannot be read is watched, not believed",
}
NEEDED_AFTER = {  # a process was killed; what it had done and not flushed must be flushed before anybody relies on it
    "Flush checkpoints by sweep > fsync": "Rename .step-N.trash by prune > _remove",
    "Flush timeline.jsonl by append_line > cut_torn_tail": "Write timeline.jsonl by append_timeline > append_line",
}
THE_SAME = {"Flush attempts.jsonl by append_line > cut_torn_tail"}  # function as for timeline.jsonl
OF_THE_TEST = {"Flush by the disk"}


@pytest.mark.slow
def test_ten_thousand_states_after_a_power_failure_hold_what_was_promised():
    tally = explore(seed=0, cuts=8)
    print(tally)
    assert tally.violations == []
    assert tally.total >= 10_000


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_all_states_after_a_power_failure_hold_what_was_promised():
    tally = explore(seed=1)
    print(tally)
    assert tally.violations == []


def kinds_of_flush(tapes: list[Tape]) -> list[str]:
    moments = [moment for tape in tapes for moment in tape.moments]
    return list(dict.fromkeys(moment.kind for moment in moments if isinstance(moment.operation, Flush)))


def violations_without(kind: str, tapes: list[Tape], folder) -> list[str]:
    tally = Tally("states")
    check([tape.without_flush(kind) for tape in tapes], folder, tally, until_violation=True)
    return tally.violations


def test_each_fsync_is_needed():
    with scratch() as folder:
        tapes, draw = whole_lives(folder, seed=0), random.Random(0)
        kinds = kinds_of_flush(tapes)
        assert len(kinds) > 20
        assert {*NOT_NEEDED, *NEEDED_AFTER, *THE_SAME, *OF_THE_TEST} <= set(kinds)
        for kind in kinds:
            if kind in NEEDED_AFTER:
                cut = next(c for tape in tapes for c in cuts_of(tape, draw) if c.kind == NEEDED_AFTER[kind])
                assert violations_without(kind, go_on_after(folder / kind, cut, draw), folder / "state"), kind
            elif kind not in {*NOT_NEEDED, *THE_SAME, *OF_THE_TEST}:
                assert violations_without(kind, tapes, folder / "state"), kind


def test_metrics_are_on_disk_when_a_checkpoint_is_begun_and_later_ones_may_have_holes(tmp_path):
    disk, elsewhere, path = Disk(), tmp_path / "elsewhere", tmp_path / "run" / "metrics.jsonl"
    path.parent.mkdir()
    with Recorder(path.parent, disk, lambda *_: None).recording():
        sink = sinks.Recorder(path, elsewhere, elsewhere / "log", name="", attempt=1, first_step=0, total_steps=60)
        for step in range(1, 41):
            sink.train(step=step, samples=step, epoch=0.0, loss=0.5, lr=1e-3, grad_norm=1.0, jets_per_s=1.0)
        sink.flush()
        for step in range(41, 61):
            sink.train(step=step, samples=step, epoch=0.0, loss=0.5, lr=1e-3, grad_norm=1.0, jets_per_s=1.0)
        states = [loss.tree for loss in disk.losses()]
        sink.close()
    assert any(b"\0" in tree["metrics.jsonl"] for tree in states)
    for tree in states:
        path.write_bytes(tree["metrics.jsonl"])
        steps = [line["step"] for line in read_lines(path)]
        assert steps[:40] == list(range(1, 41))
        assert steps == sorted(set(steps))


# -- the model of a disk -----------------------------------------------------------------------------------------------


def trees_after(*operations: object) -> dict[str, list[dict]]:
    """What a power failure can leave, by kind."""
    disk, trees = Disk(), {}
    for operation in operations:
        disk.do(operation)
    for loss in disk.losses():
        trees.setdefault(loss.kind, []).append(loss.tree)
    return trees


def all_of(trees: dict[str, list[dict]]) -> list[dict]:
    return [tree for alike in trees.values() for tree in alike]


def test_what_was_flushed_is_never_lost():
    made = Make(0, "file", 1, is_folder=False)
    trees = trees_after(made, Write(1, 0, b"abc"), Flush(1), Flush(0))
    assert all(tree == {"file": b"abc"} for tree in all_of(trees))


def test_a_flushed_file_may_lose_its_name_and_a_flushed_name_its_bytes():
    made, written = Make(0, "file", 1, is_folder=False), Write(1, 0, b"abc")
    assert {} in all_of(trees_after(made, written, Flush(1)))
    unflushed = all_of(trees_after(made, written, Flush(0)))
    assert {"file": b""} in unflushed
    assert {"file": bytes(3)} in unflushed
    assert all("file" in tree for tree in unflushed)


def test_names_are_lost_in_order_per_folder_or_in_any_order():
    folders = Make(0, "a", 1, is_folder=True), Make(0, "b", 2, is_folder=True)
    inner = [Make(1, "x", 3, is_folder=True), Make(2, "y", 4, is_folder=True), Make(1, "z", 5, is_folder=True)]
    trees = trees_after(*folders, Flush(0), *inner)
    both = {"a": None, "b": None}
    late = {**both, "b/y": None}, {**both, "a/z": None}
    assert {**both, "a/x": None} in trees["names: in order"]
    assert late[0] not in trees["names: in order"]
    assert late[0] in trees["names: in order per folder"]
    assert late[1] not in trees["names: in order per folder"]
    assert late[1] in trees["names: all but one"]


def test_a_rename_never_leaves_both_names_or_neither():
    made, other = Make(0, "old", 1, is_folder=False), Make(0, "new", 2, is_folder=False)
    trees = trees_after(made, other, Write(1, 0, b"1"), Write(2, 0, b"2"), Flush(1), Flush(2), Flush(0),
                        Rename(0, "old", "new"))  # fmt: skip
    before, after = {"old": b"1", "new": b"2"}, {"new": b"1"}
    assert before in all_of(trees)
    assert after in all_of(trees)
    assert all(tree in (before, after) for tree in all_of(trees))


def test_a_write_arrives_block_by_block():
    made, content = Make(0, "file", 1, is_folder=False), b"a" * 512 + b"b" * 512 + b"c" * 100
    trees = trees_after(made, Flush(0), Write(1, 0, content))
    assert {"file": content[:1024]} in trees["bytes: torn"]
    assert {"file": content[:512] + bytes(512) + content[1024:]} in trees["bytes: holes"]
    assert {"file": bytes(1024) + content[1024:]} in trees["bytes: holes"]
    assert {"file": b""} in trees["bytes: all of a file"]


def test_old_bytes_stay_where_an_appended_write_did_not_arrive():
    made = Make(0, "file", 1, is_folder=False), Write(1, 0, b"old"), Flush(1), Flush(0)
    trees = all_of(trees_after(*made, Write(1, 3, b"new")))
    assert {"file": b"old" + bytes(3)} in trees
    assert all(tree["file"].startswith(b"old") for tree in trees)


def test_a_truncation_and_a_removal_can_be_lost():
    made = Make(0, "file", 1, is_folder=False), Write(1, 0, b"old"), Flush(1), Flush(0)
    assert {"file": b"old"} in all_of(trees_after(*made, Truncate(1, 0)))
    assert {"file": b"old"} in all_of(trees_after(*made, Remove(0, "file")))

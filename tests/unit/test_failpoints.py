"""Phases and failpoints: what a rank tells, and where the chaos tests strike."""

import threading

import pytest

from jetmae.errors import JetmaeError
from jetmae.runtime.liveness import phases
from jetmae.runtime.liveness.failpoints import failpoints_of
from jetmae.runtime.liveness.phases import enter_phase, with_phases


@pytest.fixture
def armed(monkeypatch):
    """Set the failpoints of this process for one test."""

    def arm(text: str, **environment: str) -> None:
        for name, value in {"JETMAE_FAILPOINTS": text, **environment}.items():
            monkeypatch.setenv(name, value)
        phases._failpoints.cache_clear()

    yield arm
    monkeypatch.undo()
    phases._failpoints.cache_clear()


def test_a_failpoint_is_read_in_all_its_parts():
    text = " save: commit@rank1#3=kill ;step: fetch=sleep=0.5; import=term"
    first, second, third = failpoints_of({"JETMAE_FAILPOINTS": text, "RANK": "1"})
    assert (first.phase, first.rank, first.nth, first.action) == ("save: commit", 1, 3, "kill")
    assert (second.phase, second.rank, second.nth, second.action) == ("step: fetch", None, None, "sleep=0.5")
    assert (third.phase, third.action) == ("import", "term")
    assert len(failpoints_of({"JETMAE_FAILPOINTS": text, "RANK": "0"})) == 2
    assert failpoints_of({}) == []


@pytest.mark.parametrize(
    "text",
    ["save", "=kill", "save=die", "save@1=kill", "save@rank=kill", "save#0=kill", "save#=kill", "save=sleep",
     "save=sleep=", "save=sleep=-1", "save =kill", "save=kill=3", "save=kill;step"],
)  # fmt: skip
def test_a_malformed_failpoint_is_refused(text):
    with pytest.raises(JetmaeError, match="expected PHASE"):
        failpoints_of({"JETMAE_FAILPOINTS": text})


def test_a_failpoint_strikes_at_its_time_on_its_rank(armed):
    armed("step: fetch#3=raise", RANK="0")
    enter_phase("step: fetch")
    enter_phase("step: compute")
    enter_phase("step: fetch")
    with pytest.raises(RuntimeError, match="failpoint at 'step: fetch'"):
        enter_phase("step: fetch")
    enter_phase("step: fetch")
    armed("step: fetch@rank1=raise", RANK="0")
    enter_phase("step: fetch")
    assert phases.current_phase().phase == "step: fetch"


def test_a_failpoint_strikes_once_in_all_starts(armed, tmp_path):
    once = {"JETMAE_FAILPOINTS_ONCE": str(tmp_path / "struck")}
    for start in (1, 2):
        armed("save: write=raise; save: commit=raise", **once)
        for phase in ("save: write", "save: commit"):
            if start == 1:
                with pytest.raises(RuntimeError):
                    enter_phase(phase)
            else:
                enter_phase(phase)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["struck.0", "struck.1"]


def test_a_thread_tells_nothing_but_is_struck(armed):
    armed("save: write=raise")
    enter_phase("step: compute", "step 3")
    struck = []

    def write() -> None:
        try:
            enter_phase("save: write")
        except RuntimeError as error:
            struck.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert len(struck) == 1
    assert str(phases.current_phase()) == "'step: compute' (step 3)"


def test_a_place_that_is_told_is_read_by_another_map_of_the_same_memory(tmp_path):
    with (tmp_path / "post").open("w+b") as file:
        file.truncate(phases.PhaseMemory.RECORD.size)
        writer, reader = phases.PhaseMemory(file.fileno()), phases.PhaseMemory(file.fileno())
        writer.limit_s = 7.5
        writer.write("save: commit", "ä" * 500)
        place = reader.read()
    assert (place.count, place.limit_s, place.phase) == (1, 7.5, "save: commit")
    assert place.detail.startswith("ä" * 100)


def test_items_are_told_before_and_after_they_are_fetched():
    seen = []
    for item in with_phases(iter("ab"), "validate"):
        seen.append((item, phases.current_phase().phase))
    assert seen == [("a", "validate: compute"), ("b", "validate: compute")]
    assert phases.current_phase().phase == "validate: fetch"

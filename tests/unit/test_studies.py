"""Studies: what a protocol lists, what it refuses, what is chosen, and what is left to do."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from jetmae.cli import launch
from jetmae.cli.commands.chosen_runs import run_folders
from jetmae.cli.commands.report import may_read_test
from jetmae.cli.launch import make_study_parser
from jetmae.config import RANDOM
from jetmae.errors import JetmaeError
from jetmae.launch import submission
from jetmae.launch.stages import CHAIN
from jetmae.plan import make_plan
from jetmae.presets import preset_names
from jetmae.run_folder import RunFolder
from jetmae.slurm import queue
from jetmae.studies import choices
from jetmae.studies.candidates import candidates
from jetmae.studies.label_runs import first_stages, last_stages, trials
from jetmae.studies.protocol import KINDS, LabelProtocol, Search, keep_protocol, load_protocol
from jetmae.studies.recipe_runs import recipe_stages
from jetmae.studies.recipe_table import RecipeRow, explained_variances, write_table
from jetmae.studies.study import incomplete, phases, planned_stages

LABELS = {
    "labels": [100, 300],
    "label_seeds": [0, 1],
    "pretrain_seeds": [4, 5],
    "methods": ["finetune", "scratch", "probe", "probe-random"],
    "search": {"seeds": [100], "grid": {"optim.lr": [1e-3, 1e-2], "optim.layer_decay": [0.7, 1.0]}},
}
TARGETS = {
    "vary": ["reconstruct.targets"],
    "recipes": {"pixels": {}, "log_sums": {"reconstruct.targets": {"log_sums": 1.0}}},
    "steps": 20,
    "label_seeds": [0, 1],
}


def protocol(folder: Path, content: dict, sample: Path, kind: str = "labels", *more: str):
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return load_protocol(kind, str(path), [f"data.path={sample}", *more])


def runs(stages) -> list[str]:
    return [f"{stage.name}: {' '.join(member.run.root.name for member in stage.members)}" for stage in stages]


def test_fine_tuning_and_scratch_try_the_same_but_for_layer_decay():
    search = Search(grid={"optim.lr": [1e-3, 1e-2], "optim.layer_decay": [0.7, 1.0]})
    assert candidates("scratch", search) == [{"optim.lr": 1e-3}, {"optim.lr": 1e-2}]
    assert candidates("finetune", search) == [
        {"optim.lr": lr, "optim.layer_decay": decay} for lr in (1e-3, 1e-2) for decay in (0.7, 1.0)
    ]
    assert candidates("scratch", Search()) == [{}]


def test_the_first_phase_is_pretraining_and_search_without_test_jets(tmp_path, sample):
    stages = first_stages(protocol(tmp_path, LABELS, sample), tmp_path / "s")
    assert runs(stages)[0] == "pretrain: pretrain-P4 pretrain-P5"
    assert runs(stages)[2] == "search/n100/scratch: scratch-c0-s100 scratch-c1-s100"
    assert [(stage.name, stage.after) for stage in stages] == [
        ("pretrain", None),
        ("search/n100/finetune", "pretrain"),
        ("search/n100/scratch", None),
        ("search/n300/finetune", "pretrain"),
        ("search/n300/scratch", None),
    ]
    members = [member for stage in stages for member in stage.members]
    assert all(make_plan(member.experiment, 1).test_split is None for member in members)
    assert stages[3].members[3].experiment.optim.layer_decay == 1.0
    assert {member.experiment.seed for stage in stages[1:] for member in stage.members} == {100}


def test_the_last_phase_has_every_method_with_every_seed_and_what_was_chosen(tmp_path, sample):
    chosen = {(100, "finetune"): {"optim.lr": 0.02}, (300, "finetune"): {}, (100, "scratch"): {}, (300, "scratch"): {}}
    root = tmp_path / "s"
    stages = last_stages(protocol(tmp_path, LABELS, sample), root, chosen)
    assert runs(stages)[:4] == [
        "n100/finetune: finetune-P4-s0 finetune-P4-s1 finetune-P5-s0 finetune-P5-s1",
        "n100/scratch: scratch-s0 scratch-s1",
        "n100/probe: probe-P4-s0 probe-P4-s1 probe-P5-s0 probe-P5-s1",
        "n100/probe-random: probe-random-s0 probe-random-s1",
    ]
    tuned = stages[0].members[3].experiment
    assert (tuned.optim.lr, tuned.seed, tuned.data.train_jets) == (0.02, 1, 100)
    assert tuned.init_from == str(root / "pretrain-P5")
    assert stages[3].members[0].experiment.init_from == RANDOM
    assert make_plan(tuned, 1).test_split == "test"


def test_without_methods_all_of_a_chain_are_compared(tmp_path, sample):
    found = protocol(tmp_path, {"labels": [100]}, sample)
    assert found.methods == tuple(name for name in CHAIN if name != "pretrain")


def test_without_a_method_that_needs_it_nothing_is_pretrained(tmp_path, sample):
    stages = first_stages(protocol(tmp_path, {**LABELS, "methods": ["scratch"]}, sample), tmp_path / "s")
    assert [stage.name for stage in stages] == ["search/n100/scratch", "search/n300/scratch"]


def test_recipes_have_equal_steps_and_read_no_test_jets(tmp_path, sample):
    stages = recipe_stages(protocol(tmp_path, TARGETS, sample, "targets"), tmp_path / "s")
    assert runs(stages) == [
        "pretrain: pixels-P0 log_sums-P0",
        "pixels/probe: probe-P0-s0 probe-P0-s1",
        "log_sums/probe: probe-P0-s0 probe-P0-s1",
    ]
    members = [member for stage in stages for member in stage.members]
    assert {member.experiment.optim.steps for member in stages[0].members} == {20}
    assert stages[0].members[1].experiment.reconstruct.targets == {"log_sums": 1.0}
    assert all(not member.experiment.data.use_test for member in members)
    assert stages[2].members[0].experiment.init_from == str(tmp_path / "s" / "log_sums-P0")


@pytest.mark.parametrize("kind", KINDS)
def test_a_preset_is_a_protocol_whose_runs_can_be_listed(kind, tmp_path, sample):
    assert kind in preset_names("study")
    assert planned_stages(load_protocol(kind, kind, [f"data.path={sample}"]), tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_a_command(kind):
    assert make_study_parser().parse_intermixed_args([kind, "optim.lr=1", "--dry-run"]).overrides == ["optim.lr=1"]


# -- what a protocol refuses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": [1]}, r"key 'label' does not exist: expected one of .*; did you mean 'labels'\?"),
        ({"search": {"grids": {}}}, r"key 'search.grids' does not exist: expected one of seeds, grid"),
        ({"labels": []}, "labels = "),
        ({"labels": [100, 100]}, r"labels \[100, 100\]: one stands there twice"),
        ({"label_seeds": [-1]}, "label_seeds.0 = -1: "),
        ({"methods": ["finetun"]}, r"methods: 'finetun': expected one of .*; did you mean 'finetune'\?"),
        ({"search": {"grid": {"seed": [1]}}}, "seed: the study sets it itself"),
        ({"overrides": {"all": {"data.train_jets": 5}}}, "data.train_jets: the study sets it itself"),
        ({"overrides": {"tune": {}}}, "overrides.tune"),
        ({"study": "masks"}, "is a protocol for study 'masks', expected 'labels'"),
    ],
)
def test_a_mistake_in_a_protocol_is_one_line(change, said, tmp_path, sample):
    with pytest.raises(JetmaeError, match=said) as error:
        protocol(tmp_path, {**LABELS, **change}, sample)
    assert "\n" not in str(error.value)


def test_a_protocol_without_labels_says_so(tmp_path, sample):
    with pytest.raises(JetmaeError, match="labels: field required"):
        protocol(tmp_path, {}, sample)


def test_a_recipe_changes_the_factor_alone(tmp_path, sample):
    wrong = {**TARGETS, "recipes": {"wide": {"model.dim": 128}}}
    with pytest.raises(JetmaeError, match=r"recipes.wide sets model.dim: expected one of reconstruct.targets"):
        protocol(tmp_path, wrong, sample, "targets")


def test_recipes_are_judged_by_what_starts_from_them(tmp_path, sample):
    with pytest.raises(JetmaeError, match="methods: 'scratch': expected one of finetune, probe"):
        protocol(tmp_path, {**TARGETS, "methods": ["scratch"]}, sample, "targets")


def test_a_setting_that_does_not_exist_is_refused_before_anything_starts(tmp_path, sample):
    wrong = protocol(tmp_path, {**LABELS, "search": {"grid": {"optim.lrr": [1]}}}, sample)
    with pytest.raises(JetmaeError, match=r"key 'optim.lrr' does not exist; did you mean 'optim.lr'\?"):
        planned_stages(wrong, tmp_path / "s")


def test_what_is_typed_counts_for_one_task_or_for_all(tmp_path, sample):
    found = protocol(tmp_path, LABELS, sample, "labels", "probe.optim.lr=0.5", "optim.clip_norm=2.0")
    assert "optim.lr=0.5" in found.overrides_of("probe")
    assert "optim.lr=0.5" not in found.overrides_of("scratch")
    assert {"optim.clip_norm=2.0", f'data.path="{sample}"'} <= set(found.overrides_of("scratch"))


def test_a_study_keeps_its_protocol(tmp_path, sample):
    kept = tmp_path / "study" / "protocol.yaml"
    first = protocol(tmp_path, LABELS, sample)
    keep_protocol(first, kept)
    keep_protocol(first, kept)
    assert load_protocol("labels", str(kept), []) == first
    with pytest.raises(JetmaeError, match=r"label_seeds is \[0, 1\], now \[0\]: a protocol stays as it was"):
        keep_protocol(protocol(tmp_path, {**LABELS, "label_seeds": [0]}, sample), kept)


# -- the choice --------------------------------------------------------------------------------------------------------


def complete_search(found: LabelProtocol, root: Path, auc_of) -> None:
    """Run folders of a search whose validation AUC is `auc_of(trial)`, one of 0, 0.5, 1 or nan."""
    scores = {0.0: [0.9, 0.1], 0.5: [0.5, 0.5], 1.0: [0.1, 0.9]}
    for trial in trials(found):
        run = root / trial.path
        (run / "evaluation").mkdir(parents=True)
        (run / "config.yaml").write_text(f"task: {trial.method}\n")
        auc = auc_of(trial)
        score = np.array(scores.get(auc, [math.nan, math.nan]), np.float32)
        arrays = {
            "score": score,
            "label": np.array([0, 1], np.int8),
            "sample_id": np.arange(2),
            "classes": np.array([]),
        }
        np.savez(run / "evaluation" / "predictions_validation.npz", **arrays)


@pytest.fixture
def searched(tmp_path, sample) -> LabelProtocol:
    content = {**LABELS, "search": {"seeds": [7, 8], "grid": {"optim.lr": [1e-3, 1e-2, 1e-1]}}}
    return protocol(tmp_path, content, sample)


def test_the_best_mean_over_the_seeds_of_the_search_is_chosen(searched, tmp_path):
    aucs = {(0, 7): 1.0, (0, 8): 0.0, (1, 7): 0.5, (1, 8): 1.0, (2, 7): 0.0, (2, 8): 0.5}
    complete_search(searched, tmp_path, lambda trial: aucs[trial.number, trial.seed])
    chosen = choices.choose(trials(searched), tmp_path)
    assert chosen[100, "finetune"] == {"optim.lr": 1e-2}
    assert set(chosen) == {(labels, method) for labels in (100, 300) for method in ("finetune", "scratch")}
    written = json.loads((tmp_path / "choices.json").read_text())["n100"]["scratch"]
    assert [candidate["validation_auc"] for candidate in written["candidates"]] == [0.5, 0.75, 0.25]
    assert written["candidates"][1]["runs"] == {
        "search/n100/scratch-c1-s7": 0.5,
        "search/n100/scratch-c1-s8": 1.0,
    }


def test_a_candidate_without_a_number_is_not_chosen_and_of_equal_ones_the_first(searched, tmp_path):
    complete_search(searched, tmp_path, lambda trial: math.nan if trial.number == 0 else 0.5)
    assert choices.choose(trials(searched), tmp_path)[300, "scratch"] == {"optim.lr": 1e-2}
    assert "NaN" not in (tmp_path / "choices.json").read_text()


def test_a_search_in_which_nothing_has_a_number_chooses_nothing(searched, tmp_path):
    complete_search(searched, tmp_path, lambda trial: math.nan)
    with pytest.raises(JetmaeError, match="no AUC on validation jets in search/n100/finetune-c0-s7"):
        choices.choose(trials(searched), tmp_path)
    assert not (tmp_path / "choices.json").exists()


def test_what_was_chosen_stays_when_the_runs_of_the_search_are_gone(searched, tmp_path):
    complete_search(searched, tmp_path, lambda trial: 1.0 if trial.number == 2 else 0.5)
    first = choices.choose(trials(searched), tmp_path)
    (tmp_path / "search").rename(tmp_path / "gone")
    assert choices.choose(trials(searched), tmp_path) == first


def test_choices_that_are_damaged_are_one_line(searched, tmp_path):
    (tmp_path / "choices.json").write_text('{"n100": 3}')
    with pytest.raises(JetmaeError, match=r"choices.json is damaged"):
        choices.choose(trials(searched), tmp_path)


# -- what is left to do ------------------------------------------------------------------------------------------------


def test_the_last_phase_is_listed_only_after_the_search(searched, tmp_path):
    found = phases(searched, tmp_path / "s")
    next(found)
    with pytest.raises(JetmaeError, match=r"not a run folder"):
        next(found)


def test_only_runs_that_are_not_complete_are_left(searched, tmp_path):
    stages = first_stages(searched, tmp_path / "s")
    for member in [*stages[0].members, stages[1].members[2]]:
        member.run.root.mkdir(parents=True)
        member.run.completed.touch()
    left = incomplete(stages)
    assert [len(stage.members) for stage in left] == [5, 6, 6, 6]


def test_a_folder_of_runs_may_hold_them_at_any_depth(tmp_path):
    for name in ("pretrain-P0", "n100/scratch-s0", "search/n100/scratch-c0-s1"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        (tmp_path / "mine" / name / "config.yaml").write_text("task: scratch\n")
    assert {folder.name for folder in run_folders("mine", tmp_path)} == {"pretrain-P0", "scratch-s0", "scratch-c0-s1"}


def test_a_run_of_a_search_is_no_row_of_a_report(tmp_path):
    def is_row(config: str) -> bool:
        (tmp_path / "config.yaml").write_text(config)
        return may_read_test(RunFolder(tmp_path))

    assert is_row("task: scratch\n")
    assert is_row("task: scratch\ndata: {use_test: true}\n")
    assert not is_row("task: scratch\ndata: {use_test: false}\n")


# -- on Slurm ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def submitted(monkeypatch) -> list[tuple[list[str], str | None]]:
    """Names of the runs of each submission, or the words of a command, and what it depends on. Slurm has job 50."""
    calls = []

    def submit_runs(roots: list[Path], resources, *, name: str) -> list[str]:
        calls.append(([root.name for root in roots], resources.dependency))
        return [f"{len(calls)}_{number}" for number in range(len(roots))]

    def submit_command(command: list[str], folder: Path, resources, *, code_of: Path, name: str) -> str:
        calls.append((command, resources.dependency))
        return "50"

    monkeypatch.setattr(submission, "submit", submit_runs)
    monkeypatch.setattr(submission, "submit_command", submit_command)
    monkeypatch.setattr(queue, "queue_of", lambda users: {"50": queue.QueuedJob("PENDING", "Dependency", None)})
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return calls


def on_slurm(sample: Path, folder: Path) -> int:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**TARGETS, "label_seeds": [0]}, sort_keys=False))
    words = [
        "targets",
        f"data.path={sample}",
        "--config",
        path,
        "--name",
        "s",
        "--runs-dir",
        folder,
        "--cluster",
        "slurm",
    ]
    return launch.main(["study", *map(str, words), "--time", "30"])


def test_on_slurm_a_job_gives_the_same_command_again_when_all_is_complete(submitted, tmp_path, sample, monkeypatch):
    assert on_slurm(sample, tmp_path) == 0
    assert submitted[:3] == [
        (["pixels-P0", "log_sums-P0"], None),
        (["probe-P0-s0"], "afterok:1_0:1_1"),
        (["probe-P0-s0"], "afterok:1_0:1_1"),
    ]
    command, dependency = submitted[3]
    assert dependency == "afterok:1_0:1_1:2_0:3_0"
    assert command[1:5] == ["-m", "jetmae", "study", "targets"]
    again = make_study_parser().parse_intermixed_args(command[4:])
    assert (again.config, again.name) == (str(tmp_path / "s" / "protocol.yaml"), "s")
    assert (again.cluster, again.time_min) == ("slurm", 30)
    with pytest.raises(JetmaeError, match=r"goes on by itself in job 50, queued or running: scancel 50, or wait"):
        on_slurm(sample, tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "50")  # that job itself
    assert on_slurm(sample, tmp_path) == 0


# -- the table ---------------------------------------------------------------------------------------------------------


def test_explained_variance_is_read_for_every_mask_and_space(tmp_path):
    truth = np.random.default_rng(0).normal(size=(50, 4, 2))
    sums = {
        "sse": 0.25 * (truth**2).sum(axis=1),
        "sum": truth.sum(axis=1),
        "sum_of_squares": (truth**2).sum(axis=1),
    }
    arrays = {**sums, "count": np.full(50, 4), "channels": np.array(["ecal", "hcal"]), "groups/sums/sse": sums["sse"]}
    arrays |= {f"patches/log_sums/{name}": values for name, values in sums.items()}
    (tmp_path / "evaluation").mkdir()
    counts = {"patches/log_sums/count": np.full((50, 2), 4)}
    np.savez(tmp_path / "evaluation" / "reconstruction_validation.npz", **arrays, **counts)
    found = explained_variances(tmp_path)
    assert list(found) == ["loss", "patches/log_sums"]
    expected = 1 - 0.25 * (truth**2).sum(axis=(0, 1)) / (200 * truth.var(axis=(0, 1)))
    assert list(found["loss"]) == ["ecal", "hcal"]
    assert list(found["loss"].values()) == pytest.approx(expected)
    assert found["patches/log_sums"] == found["loss"]


def test_the_table_leaves_out_what_is_not_known(tmp_path):
    rows = [
        RecipeRow("a", {}, 20, 3.25, {"probe": {"a/probe-P0-s0": 0.8, "a/probe-P0-s1": 0.9}}, {"loss": {"ecal": 0.5}}),
        RecipeRow("b", {}, 20, math.nan, {"probe": {"b/probe-P0-s0": 0.7}}, {}),
    ]
    assert write_table(rows, tmp_path).read_text().splitlines() == [
        "recipe,steps,cpu_s,probe_auc,probe_auc_scatter,explained_variance/loss/ecal",
        "a,20,3.2,0.8500,0.0707,0.5000",
        "b,20,,0.7000,,",
    ]
    assert json.loads((tmp_path / "recipes.json").read_text())[1]["cpu_s"] is None

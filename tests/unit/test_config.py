"""Strict configuration: what is accepted, and what each refusal says."""

import pytest
import yaml

from jetmae.config import as_yaml, load_experiment, validated
from jetmae.errors import JetmaeError
from jetmae.plan import batch_layout
from jetmae.presets import FOLDER, TASKS

ALL_PRESETS = [(path.parent.name, path.stem) for path in sorted(FOLDER.glob("*/*.yaml")) if path.parent.name in TASKS]
INIT_FROM = {"finetune": ["init_from=somewhere"], "probe": ["init_from=random"]}


def test_each_task_has_a_paper_size_and_a_laptop_preset():
    assert {(task, name) for task in TASKS for name in ("seed", "small")} <= set(ALL_PRESETS)


@pytest.mark.parametrize(("task", "preset"), ALL_PRESETS)
def test_preset_survives_the_way_through_config_yaml(task, preset):
    experiment = load_experiment(task, preset, INIT_FROM.get(task, []))
    assert experiment.task == task
    assert validated(yaml.safe_load(as_yaml(experiment)), where="again") == experiment


def test_overrides_are_typed_and_scientific_notation_is_a_number():
    experiment = load_experiment("pretrain", "small", ["optim.lr=3e-4", "log.every_steps=7", "optim.clip_norm=null"])
    assert experiment.optim.lr == 3e-4
    assert experiment.log.every_steps == 7
    assert experiment.optim.clip_norm is None


def test_a_length_in_steps_replaces_the_presets_epochs_and_back():
    experiment = load_experiment("pretrain", "small", ["optim.steps=20"])
    assert (experiment.optim.steps, experiment.optim.epochs) == (20, None)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.lrr=1", r"'optim.lrr' does not exist; did you mean 'optim.lr'\?"),
        ("lr=1", r"did you mean 'optim.lr'"),
        ("model.pach_size=5", r"did you mean 'model.patch_size'"),
        ("reconstruct.mask_rato=0.5", r"did you mean 'reconstruct.mask_ratio'"),
        ("optim.lr=fast", r"optim.lr = 'fast'.*valid number"),
        ("optim.batch_size=1.5", r"optim.batch_size = 1.5.*integer"),
        ("optim.lr=-1", r"optim.lr = -1.*greater than 0"),
        ("optim.lr=.inf", r"optim.lr = inf.*finite"),
        ("data.transform=asin", r"'none', 'asinh' or 'log'"),
        ("model.heads=7", r"dim 64 with heads 7"),
        ("classify.pooling=cls", r"section classify is not for task pretrain"),
        ("init_from=x", r"pretrain starts from random weights"),
        ("init_from=observables", r"pretrain starts from random weights"),
        ("engine.zero_stage=4", r"engine.zero_stage = 4"),
        ("optim.layer_decay=0.5", r"only finetune"),
        ("optim", r"expected key=value"),
        ("seed.x=1", r"seed is a value|valid"),
        ("optim.steps=3 optim.epochs=2", r"exactly one"),
    ],
)
def test_a_bad_override_is_refused_in_one_line(override, expected):
    with pytest.raises(JetmaeError, match=expected) as caught:
        load_experiment("pretrain", "small", override.split())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "section"), [("pretrain", "reconstruct"), ("scratch", "classify"), ("scratch", "log")]
)
def test_an_empty_section_means_its_defaults(tmp_path, task, section):
    preset = tmp_path / "mine.yaml"
    preset.write_text(f"task: {task}\noptim: {{steps: 3}}\n{section}:\n  # every_key: commented out\n")
    defaults = validated({"task": task, "optim": {"steps": 3}}, where="defaults")
    assert getattr(defaults, section) is not None
    assert load_experiment(task, str(preset), []) == defaults
    assert load_experiment(task, str(preset), [f"{section}=null"]) == defaults


def test_a_setting_may_be_given_for_an_empty_section(tmp_path):
    preset = tmp_path / "mine.yaml"
    preset.write_text("task: scratch\nclassify:\noptim:\n")
    experiment = load_experiment("scratch", str(preset), ["classify.pooling=cls", "optim.steps=3"])
    assert (experiment.classify.pooling, experiment.optim.steps) == ("cls", 3)


def test_an_empty_value_that_is_no_section_is_refused():
    with pytest.raises(JetmaeError, match="seed = None"):
        load_experiment("pretrain", "small", ["seed=null"])


@pytest.mark.parametrize("task", ["finetune", "probe"])
def test_tasks_that_start_from_a_run_ask_for_it(task):
    with pytest.raises(JetmaeError, match="add init_from=RUN"):
        load_experiment(task, "small", [])


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(JetmaeError, match="seed, small"):
        load_experiment("pretrain", "smal", [])


def test_pooling_choices_are_those_of_the_classifier():
    for pooling in ("mean", "cls", "patch_mean", "annuli", "energy"):
        assert load_experiment("scratch", "small", [f"classify.pooling={pooling}"]).classify.pooling == pooling


def test_batch_layout_multiplies_to_the_global_batch():
    assert batch_layout(64, 4, None) == (16, 1)
    assert batch_layout(64, 4, 8) == (8, 2)


@pytest.mark.parametrize(
    ("batch_size", "ranks", "micro", "expected"),
    [
        (65, 2, None, "use 64 or 66, or a number of ranks among 1, 5, 13, 65"),
        (64, 4, 5, "expected one of 1, 2, 4, 8, 16"),
        (2, 4, None, "use 4, or a number of ranks among 1, 2"),
    ],
)
def test_an_impossible_batch_layout_names_the_possible_ones(batch_size, ranks, micro, expected):
    with pytest.raises(JetmaeError, match=expected):
        batch_layout(batch_size, ranks, micro)


@pytest.mark.parametrize(
    ("task", "words", "expected"),
    [
        ("finetune", ["init_from=random"], r"fine-tuning from random weights is the task scratch"),
        ("finetune", ["init_from=observables"], r"no weights to tune; use the task probe"),
        ("finetune", [], r"add init_from=RUN$"),
        ("probe", [], r"init_from=RUN, init_from=random for the control .*, or init_from=observables for a textbook"),
    ],
)
def test_a_start_that_a_task_cannot_have_is_refused(task, words, expected):
    with pytest.raises(JetmaeError, match=expected):
        load_experiment(task, "small", words)

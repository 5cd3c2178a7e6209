"""The protocol of a study: what is trained, with which seeds, and how settings are chosen. Fixed before the first run.

A protocol is a YAML file, such as those in configs/study/. It is checked as strictly as an experiment, and its resolved
form is kept in the folder of the study, which no other protocol may use afterwards.
"""

import difflib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from jetmae.errors import JetmaeError
from jetmae.files import make_folder, write_text
from jetmae.launch.stages import CHAIN
from jetmae.presets import FOLDER, TASKS, preset_names

Settings = dict[str, Any]
"""Dotted settings of an experiment and their values."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1)]
PretrainSeeds = Annotated[
    Seeds, Field(description="one pretraining each: initial weights, masks and order of the unlabelled jets")
]
METHODS = tuple(name for name in CHAIN if name != "pretrain")
SEARCHED = ("finetune", "scratch")
RESERVED = ("seed", "init_from", "data.train_jets", "data.use_test")  # the study sets them itself
RECIPE_NAME = r"^[a-z0-9][a-z0-9_]*$"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Search(_Part):
    """How settings are chosen for fine-tuning and scratch, the same for both, by the AUC on validation jets."""

    seeds: Seeds = Field((100,), description="label seeds of the search; the mean of their AUCs decides")
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        default_factory=dict, description="setting: values to try; every combination; layer decay for finetune alone"
    )


class _Protocol(_Part):
    config: str = Field("small", description="preset of every task, configs/TASK/NAME.yaml")
    overrides: dict[Literal["all", "pretrain", "finetune", "scratch", "probe"], Settings] = Field(
        default_factory=dict, description="settings of one task, or of all of them"
    )

    @field_validator("overrides")
    @classmethod
    def _check_overrides(cls, overrides: dict[str, Settings]) -> dict[str, Settings]:
        for settings in overrides.values():
            _refuse_reserved(settings)
        return overrides

    def overrides_of(self, task: str) -> list[str]:
        """What a task overrides in its preset, as it would be typed."""
        return typed_settings({**self.overrides.get("all", {}), **self.overrides.get(task, {})})  # type: ignore[call-overload]  # a task is one of the keys


class LabelProtocol(_Protocol):
    """Test AUC against the number of labels, by method."""

    study: Literal["labels"]
    labels: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)] = Field(
        description="numbers of labelled training jets"
    )
    label_seeds: Seeds = Field((0, 1, 2), description="which jets are labelled; initial weights of the head; order")
    pretrain_seeds: PretrainSeeds = (0,)
    methods: tuple[str, ...] = Field(METHODS, min_length=1, description="what is compared")
    search: Search = Search()

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_methods(self.methods)
        _check_distinct(self, "labels", "label_seeds", "pretrain_seeds", "methods")
        _refuse_reserved(self.search.grid)
        return self


class RecipeProtocol(_Protocol):
    """Recipes of pretraining side by side, one factor varied, all with the same number of steps."""

    study: Literal["targets", "masks"]
    vary: tuple[str, ...] = Field(min_length=1, description="the factor: the only settings that recipes may differ in")
    recipes: dict[Annotated[str, Field(pattern=RECIPE_NAME)], Settings] = Field(
        min_length=1, description="name: settings of pretrain"
    )
    steps: int = Field(ge=1, description="optimizer steps of every pretraining")
    pretrain_seeds: PretrainSeeds = (0,)
    labels: int = Field(1000, ge=2, description="number of labelled training jets of the methods")
    label_seeds: Seeds = Field((0,), description="which jets are labelled")
    methods: tuple[str, ...] = Field(("probe",), min_length=1, description="how each pretraining is judged")

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_methods(self.methods, tuple(name for name in METHODS if CHAIN[name][1] == "pretrain"))
        _check_distinct(self, "label_seeds", "pretrain_seeds", "methods")
        for name, settings in self.recipes.items():
            for key in settings:
                if key not in self.vary:
                    allowed = ", ".join(self.vary)
                    raise ValueError(f"recipes.{name} sets {key}: expected one of {allowed}; add it to vary, or move"
                                     " it to overrides.pretrain")  # fmt: skip
        return self


Protocol = LabelProtocol | RecipeProtocol
KINDS: dict[str, type[LabelProtocol] | type[RecipeProtocol]] = {
    "labels": LabelProtocol,
    "targets": RecipeProtocol,
    "masks": RecipeProtocol,
}


def load_protocol(kind: str, config: str, overrides: list[str]) -> Protocol:
    """A protocol with what was typed over it, checked.

    Args:
        kind: labels, targets or masks.
        config: name of a file in configs/study/, or the path of a YAML file.
        overrides: `section.key=value` for all tasks, `TASK.section.key=value` for one.

    Raises:
        JetmaeError: no such file, or something in it is not what it should be.
    """
    path = Path(config) if config.endswith((".yaml", ".yml")) else FOLDER / "study" / f"{config}.yaml"
    if not path.is_file():
        known = ", ".join(preset_names("study"))
        raise JetmaeError(f"no protocol {config!r}: expected one of {known}, or the path of a .yaml file")
    content = _read(path)
    if content.setdefault("study", kind) != kind:
        raise JetmaeError(f"{path} is a protocol for study {content['study']!r}, expected {kind!r}")
    for override in overrides:
        _apply(content, override)
    try:
        return KINDS[kind].model_validate(content)
    except ValidationError as error:
        raise JetmaeError(f"{path}: {_one_line(error, KINDS[kind])}") from None


def keep_protocol(protocol: Protocol, path: Path) -> None:
    """Write the resolved protocol, or see that it is the one that is there.

    Raises:
        JetmaeError: the study was begun with another one, or the file cannot be written.
    """
    content = protocol.model_dump(mode="json")
    if path.exists():
        kept = _read(path)
        if different := [key for key in {**kept, **content} if kept.get(key) != content.get(key)]:
            key = different[0]
            raise JetmaeError(
                f"{path}: {key} is {kept.get(key)}, now {content.get(key)}: a protocol stays as it was when the study"
                " began; give that again, or another --name"
            )
        return
    make_folder(path.parent)
    write_text(path, yaml.safe_dump(content, sort_keys=False))


def typed_settings(settings: Settings) -> list[str]:
    """`key=value`, as on a command line."""
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise JetmaeError(f"{path} is not valid YAML in UTF-8: {error}; correct it") from error
    if not isinstance(content, dict):
        raise JetmaeError(
            f"{path} holds {type(content).__name__}, expected a mapping such as configs/study/labels.yaml"
        )
    return content


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    first, _, rest = key.partition(".")
    task, setting = (first, rest) if first in TASKS else ("all", key)
    if not equals or not re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", setting):
        raise JetmaeError(f"override {override!r}: expected key=value, such as data.path=data/mine")
    try:
        content["overrides"] = content.get("overrides") or {}
        content["overrides"].setdefault(task, {})[setting] = yaml.safe_load(value)
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        raise JetmaeError(f"override {override!r}: {value!r} is not a YAML value ({error})") from error


def _check_methods(methods: tuple[str, ...], known: tuple[str, ...] = METHODS) -> None:
    for method in methods:
        if method not in known:
            near = difflib.get_close_matches(method, known, n=1)
            raise ValueError(f"methods: {method!r}: expected one of {', '.join(known)}" + _suggested(near))


def _check_distinct(protocol: BaseModel, *names: str) -> None:
    for name in names:
        values = getattr(protocol, name)
        if len(set(values)) < len(values):
            raise ValueError(f"{name} {list(values)}: one stands there twice; remove it")


def _refuse_reserved(settings: Settings) -> None:
    for key in settings:
        if key in RESERVED:
            raise ValueError(f"{key}: the study sets it itself; use labels and the seeds of the protocol")


def _one_line(error: ValidationError, kind: type[BaseModel]) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"] if part != "[key]")
    if first["type"] == "extra_forbidden":
        known = list((Search if key.startswith("search.") else kind).model_fields)
        near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1)
        return f"key {key!r} does not exist: expected one of {', '.join(known)}" + _suggested(near)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return message
    found = "" if first["type"] == "missing" else f" = {first['input']!r}"
    return f"{key}{found}: {message[0].lower()}{message[1:]}"


def _suggested(near: list[str]) -> str:
    return f"; did you mean {near[0]!r}?" if near else ""

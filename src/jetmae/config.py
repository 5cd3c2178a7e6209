"""Every knob of an experiment, checked before anything starts.

A preset (configs/<task>/<name>.yaml) gives what differs from the defaults below; `key=value` on the command line
overrides it; the resolved result is written into the run folder and is what the job reads. A misspelt key, a wrong type
or a contradiction is refused with the value found, what was expected, and the nearest valid key.

How the work is laid out over nodes and ranks is no part of the experiment: the same experiment runs on any layout that
can make its global batch (`batch_layout` in plan.py).
"""

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from jetmae.errors import JetmaeError
from jetmae.presets import FOLDER, TASKS, preset_names

Target = Literal["pixels", "log_sums", "tweedie_sums", "occupancy", "raw_sums", "signed_sums"]
RANDOM = "random"  # probe only: init_from=random is the control without pretraining
OBSERVABLES = "observables"  # probe only: init_from=observables has a textbook's features and no encoder
NO_RUN = (RANDOM, OBSERVABLES)
"""values of init_from that name no run"""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _require_divides(where: str, dim: int, heads: int) -> None:
    if dim % heads or dim % 4:
        raise ValueError(f"{where}: dim {dim} with heads {heads}: expected a dim that divides by heads and by 4")


class Data(Section):
    """Which jets, and how their values enter the network."""

    path: str = Field("data/sample", description="folder with manifest.json, made by jetmae data convert")
    train_split: str | None = Field(None, description="default: to pretrain unlabelled_train if it exists, else train")
    validation_split: str | None = Field(None, description="chooses the best weights; default as for train_split")
    test_split: str | None = Field(None, description="looked at once, at the end; default as for train_split")
    use_test: bool = Field(True, description="false: the test split is never read, as in a search for settings")
    transform: Literal["none", "asinh", "log"] = Field("none", description="value transform; see normalisation.py")
    crop_patches: float | None = Field(
        None, gt=0, description="classifiers read only patches this near, in patches, to the image's centre; null: all"
    )
    train_jets: int | None = Field(None, ge=1, description="use this many training jets only (few labels); null: all")
    evaluation_jets: int | None = Field(
        None, ge=1, description="score this many jets of a split, chosen at random but always the same; null: all"
    )
    verify_hashes: bool = Field(False, description="read and hash all shards at each start, divided among the ranks")


class Augment(Section):
    """Random changes of training jets that leave the physics alone: the same for fine-tuning and scratch."""

    flips: bool = Field(
        False, description="mirror in eta and in phi, each for half of the jets, signs of d0, dz with it"
    )
    shift_patches: int = Field(
        0, ge=0, description="shift by up to so many patches in eta and phi; what enters is empty"
    )
    drop_tokens: float = Field(
        0.0, ge=0, lt=1, description="fraction of a jet's patches that a classifier does not see"
    )


class Model(Section):
    """The encoder. The defaults are the seed network."""

    patch_size: int = Field(5, ge=1, description="pixels; 5 is one hadron calorimeter tower")
    dim: int = Field(768, ge=4, description="width of a token")
    depth: int = Field(8, ge=1, description="transformer blocks")
    heads: int = Field(1, ge=1, description="attention heads; dim must divide by it")
    mlp_ratio: float = Field(4.0, gt=0, description="hidden width of a block's MLP, as a multiple of dim")
    drop_path: float = Field(
        0.0, ge=0, lt=1, description="stochastic depth: how often the last block is left out; earlier ones less"
    )
    tokens: Literal["all", "occupied"] = Field(
        "all", description="patches that the encoder reads: all, or those with a value in them"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        _require_divides("model", self.dim, self.heads)
        return self


class Mask(Section):
    """One way to hide parts of a jet; see tasks/masking.py."""

    kind: Literal["patches", "patch_groups", "groups"] = Field(
        description="whole patches; channel groups of single patches; whole groups, and some patches of the others"
    )
    ratio: float = Field(0.75, gt=0, lt=1, description="fraction of the patches that is hidden")
    probability: float = Field(1.0, gt=0, description="how often, as a share of all masks' probabilities")


class Reconstruct(Section):
    """The pretraining task: the decoder, and what is hidden and compared."""

    mask_ratio: float = Field(0.75, gt=0, lt=1, description="fraction of the patches that is hidden")
    masks: tuple[Mask, ...] | None = Field(
        None, min_length=1, description="one is drawn for each jet; null: patches with mask_ratio"
    )
    groups: tuple[tuple[str, ...], ...] | None = Field(
        None, description="channels that masks hide together, by name; null: those of one detector"
    )
    targets: dict[Target, float] | None = Field(
        None, description="what is predicted, with the weight of each loss; null: pixels, weight 1"
    )
    mean_image_offset: bool = Field(False, description="predict the difference from the mean training image")
    observables_weight: float = Field(
        0.0, ge=0, description="weight of a step that regresses hand-made jet observables from the whole jet; 0: off"
    )
    observables_every: int = Field(3, ge=2, description="every so many steps is one of those")
    norm_pix_loss: bool = Field(False, description="compare with patches brought to mean 0 and variance 1 one by one")
    channel_weights: tuple[float, ...] | None = Field(None, description="loss weight per channel; null: equal")
    decoder: Literal["attention", "attention-local", "conv"] = Field(
        "attention",
        description="the seed's; with a learned penalty on distance; ConvNeXt blocks on the grid of patches",
    )
    decoder_dim: int = Field(512, ge=4, description="width of a decoder token")
    decoder_depth: int = Field(4, ge=1, description="decoder blocks")
    decoder_heads: int = Field(1, ge=1, description="attention heads of the decoder")

    @model_validator(mode="after")
    def _check(self) -> Self:
        _require_divides("reconstruct.decoder", self.decoder_dim, self.decoder_heads)
        if self.channel_weights is not None and (min(self.channel_weights) < 0 or sum(self.channel_weights) <= 0):
            raise ValueError(f"channel_weights {self.channel_weights}: expected weights >= 0 with a positive sum")
        return self


class Classify(Section):
    """The supervised tasks."""

    pooling: Literal["mean", "cls", "patch_mean", "annuli", "energy"] = Field(
        "mean", description="tokens to features; see model/classifier.py"
    )
    normalise_features: bool = Field(
        False, description="scale features by the training jets' mean and standard deviation before the head"
    )
    head_from_probe: bool = Field(
        False, description="begin with the head of a logistic regression on the encoder's first features"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.head_from_probe and (not self.normalise_features or self.pooling == "patch_mean"):
            raise ValueError(
                f"classify.head_from_probe=true with classify.normalise_features={self.normalise_features} and"
                f" classify.pooling={self.pooling}: expected normalise_features=true, and a pooling with a linear head"
            )
        return self


class Optim(Section):
    """AdamW and its schedule. Durations are in epochs of the training split."""

    lr: float = Field(1.5e-4, gt=0, description="peak learning rate")
    min_lr: float = Field(0.0, ge=0, description="learning rate at the end of the cosine")
    weight_decay: float = Field(0.05, ge=0, description="of matrices; biases, norms and tokens have none")
    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW's moment decays")
    batch_size: int = Field(64, ge=1, description="global: ranks x micro-batch x accumulation")
    epochs: float | None = Field(None, gt=0, description="length of training in epochs; give this or steps")
    steps: int | None = Field(None, ge=1, description="length of training in optimizer steps; give this or epochs")
    schedule: Literal["cosine", "cosine_restarts"] = Field("cosine", description="after the warm-up")
    warmup_epochs: float = Field(0.0, ge=0, description="epochs of linear rise from 0 to lr; half of the steps at most")
    restart_epochs: float = Field(40.0, gt=0, description="cosine_restarts: epochs of the first period")
    restart_factor: int = Field(
        2, ge=1, description="cosine_restarts: each period is this many times as long as the one before"
    )
    clip_norm: float | None = Field(1.0, gt=0, description="clip the gradient to this norm; null: never")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="lr of each encoder layer divided by that of the next one (finetune)"
    )
    ema_decay: float | None = Field(None, gt=0, lt=1, description="evaluate and export averaged weights; null: off")
    patience: int | None = Field(
        None, ge=1, description="stop after this many validations without a better score; null: never"
    )
    max_skipped_steps: int = Field(3, ge=0, description="leave out at most this many steps whose loss is not finite")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"epochs={self.epochs}, steps={self.steps}: expected exactly one of the two")
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr={self.min_lr} is above lr={self.lr}: expected min_lr <= lr")
        return self


class Engine(Section):
    """How the steps are computed; changes speed and memory, not the experiment."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is one")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="of weights and activations in the step; auto: bf16 on GPUs that have it, fp16 on others, fp32 on"
        " CPUs, decided at the first start",
    )
    zero_stage: Literal["auto", 0, 1, 2, 3] = Field(
        "auto",
        description="DeepSpeed ZeRO: 1 shards optimizer, 2 gradients, 3 weights; auto: 1 on several ranks, 0 on one",
    )
    micro_batch_size: int | None = Field(None, ge=1, description="jets per rank and pass; null: as large as possible")
    compile: bool = Field(
        False, description="compile the transformer blocks: minutes at the first start, then faster steps on a GPU"
    )
    deterministic: bool = Field(
        False, description="on a GPU only kernels that repeat their results bit by bit; some are slower"
    )
    hang_limit_s: float = Field(
        600.0, ge=5, description="seconds without progress after which a rank is ended; above the slowest step"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.precision == "fp16" and self.device == "cpu":
            raise ValueError("engine.precision=fp16, engine.device=cpu: a CPU cannot train in fp16; use bf16 or fp32")
        return self


class Log(Section):
    """How often things are looked at and kept."""

    every_steps: int = Field(
        10, ge=1, description="optimizer steps between two train lines in metrics.jsonl and TensorBoard"
    )
    validate_epochs: float = Field(1.0, gt=0, description="epochs between two scores of the validation split")
    pictures_epochs: float = Field(
        5.0, gt=0, description="epochs between two pictures of reconstructions in TensorBoard (pretrain)"
    )
    checkpoint_steps: int = Field(500, ge=1, description="optimizer steps between two checkpoints")
    keep_checkpoints: int = Field(2, ge=2, description="newest checkpoints kept; fewer than 2 could leave none valid")


class Experiment(Section):
    """A resolved experiment: what config.yaml of a run folder holds."""

    task: Literal["pretrain", "finetune", "scratch", "probe"] = Field(description="what is trained, and from where")
    seed: int = Field(0, ge=0, lt=2**32, description="of everything random: initial weights, order of the jets, masks")
    init_from: str | None = Field(
        None,
        description="run whose best weights finetune and probe start from; a probe also takes random or observables",
    )
    data: Data = Data()
    augment: Augment = Augment()
    model: Model = Model()
    reconstruct: Reconstruct | None = None
    classify: Classify | None = None
    optim: Optim
    engine: Engine = Engine()
    log: Log = Log()

    @model_validator(mode="before")
    @classmethod
    def _fill_task_section(cls, content: Any) -> Any:
        if isinstance(content, dict) and content.get("task") in TASKS:
            # A section with all its keys commented out is None: its defaults hold, as if it were not there.
            content = {key: value for key, value in content.items() if value is not None or key not in _section_names()}
            section, other = ("reconstruct", "classify")[:: 1 if content["task"] == "pretrain" else -1]
            if content.get(other) is not None:
                raise ValueError(f"section {other} is not for task {content['task']}: expected {section}; remove it")
            return {section: {}, **content}
        return content

    @model_validator(mode="after")
    def _check_init_from(self) -> Self:
        if self.task in ("pretrain", "scratch") and self.init_from is not None:
            raise ValueError(f"init_from={self.init_from}: {self.task} starts from random weights; remove init_from")
        if self.task in ("finetune", "probe") and self.init_from is None:
            others = ", init_from=random for the control without pretraining, or init_from=observables for a textbook's"
            raise ValueError(
                f"init_from is missing: {self.task} starts from a pretrain run; add init_from=RUN"
                + (f"{others} features instead of a network's" if self.task == "probe" else "")
            )
        if self.task == "finetune" and self.init_from == RANDOM:
            raise ValueError("init_from=random: fine-tuning from random weights is the task scratch; use that")
        if self.task == "finetune" and self.init_from == OBSERVABLES:
            raise ValueError("init_from=observables: observables have no weights to tune; use the task probe")
        self._check_pixels()
        if self.optim.layer_decay < 1 and self.task != "finetune":
            raise ValueError(
                f"optim.layer_decay={self.optim.layer_decay}: only finetune has layers to keep; set it to 1"
            )
        return self

    def _check_pixels(self) -> None:
        """Raise ValueError for settings of the seed's loss where another is asked for."""
        asked = self.reconstruct
        if asked is None:
            return
        if asked.targets is None and asked.masks is None and self.model.tokens == "all":
            if asked.mean_image_offset:
                raise ValueError(
                    "reconstruct.mean_image_offset=true is not for the seed's pixels: expected targets beside"
                    " it, such as reconstruct.targets={log_sums: 1.0}"
                )
            return
        for name, off in (("norm_pix_loss", False), ("channel_weights", None)):
            if getattr(asked, name) != off:
                raise ValueError(
                    f"reconstruct.{name}={getattr(asked, name)} is for the pixels of whole hidden patches: expected"
                    " reconstruct.targets=null, reconstruct.masks=null and model.tokens=all beside it"
                )


FREE_ON_RESUME = frozenset(
    """data.path data.verify_hashes engine.device engine.zero_stage engine.micro_batch_size engine.hang_limit_s
    engine.deterministic log.every_steps log.pictures_epochs log.checkpoint_steps log.keep_checkpoints
    optim.max_skipped_steps""".split()  # noqa: SIM905
)

ADDED_LATER: dict[str, object] = {
    "data.crop_patches": None,
    "data.use_test": True,
    "augment.flips": False,
    "augment.shift_patches": 0,
    "augment.drop_tokens": 0.0,
    "model.tokens": "all",
    "engine.compile": False,
    "reconstruct.masks": None,
    "reconstruct.groups": None,
    "reconstruct.targets": None,
    "reconstruct.mean_image_offset": False,
    "reconstruct.observables_weight": 0.0,
    "reconstruct.observables_every": 3,
    "reconstruct.decoder": "attention",
    "classify.normalise_features": False,
    "classify.head_from_probe": False,
}
"""Settings that version 0.1.0 did not have, with what it did. So a run of that version keeps its identity."""


def identity_of(experiment: Experiment) -> dict[str, object]:
    """Dotted settings that make two starts the same experiment.

    The others say where and how it is computed, and may differ from start to start.
    """
    settings = _flat(experiment.model_dump(mode="json"))
    added = {key for key, value in ADDED_LATER.items() if settings.get(key, value) == value}
    return {key: value for key, value in settings.items() if key not in FREE_ON_RESUME | added}


def experiment_fingerprint(experiment: Experiment) -> str:
    return hashlib.sha256(json.dumps(identity_of(experiment), sort_keys=True).encode()).hexdigest()[:16]


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def load_experiment(task: str, preset: str, overrides: list[str]) -> Experiment:
    """Preset plus overrides, checked.

    Args:
        preset: name of a file in configs/<task>/, or the path of a YAML file.
        overrides: `section.key=value`, the value in YAML.

    Raises:
        JetmaeError: no such preset, a malformed override, or an invalid experiment.
    """
    content = _read_preset(task, preset)
    if content.setdefault("task", task) != task:
        raise JetmaeError(f"preset {preset} is for task {content['task']}, expected {task}")
    for override in overrides:
        _apply_override(content, override)
    given = [key for key in ("steps", "epochs") if any(o.startswith(f"optim.{key}=") for o in overrides)]
    if len(given) == 1:  # the preset's length gives way
        content["optim"][{"steps": "epochs", "epochs": "steps"}[given[0]]] = None
    return validated(content, where=f"{task} {preset}")


def read_experiment(path: Path) -> Experiment:
    """The resolved experiment of a run folder."""
    try:
        return validated(yaml.safe_load(path.read_text(encoding="utf-8")), where=str(path))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise JetmaeError(f"{path} cannot be read ({error}): expected the resolved config of a run") from error


def as_yaml(experiment: Experiment) -> str:
    return yaml.safe_dump(experiment.model_dump(mode="json", exclude_none=False), sort_keys=False)


def validated(content: object, *, where: str) -> Experiment:
    """Check a mapping, turning the first complaint into one line."""
    try:
        return Experiment.model_validate(content)
    except ValidationError as error:
        raise JetmaeError(f"{where}: {_one_line(error)}") from None


def _read_preset(task: str, preset: str) -> dict[str, Any]:
    path = Path(preset) if preset.endswith((".yaml", ".yml")) else FOLDER / task / f"{preset}.yaml"
    if not path.is_file():
        known = ", ".join(preset_names(task))
        raise JetmaeError(f"no preset {preset!r} for {task}: expected one of {known}, or the path of a .yaml file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise JetmaeError(f"{path} is not valid YAML in UTF-8: {error}") from error
    if not isinstance(content, dict):
        raise JetmaeError(f"{path} holds {type(content).__name__}, expected a mapping of sections")
    return content


def _apply_override(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise JetmaeError(f"override {override!r}: expected key=value, such as optim.lr=3e-4")
    *sections, name = key.split(".")
    for section in sections:
        if content.get(section) is None:  # missing, or all its keys are commented out
            content[section] = {}
        if not isinstance(content[section], dict):
            raise JetmaeError(f"override {override!r}: {section} is a value, not a section")
        content = content[section]
    try:
        content[name] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise JetmaeError(f"override {override!r}: {value!r} is not a YAML value ({error})") from error


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"key {key!r} does not exist{_did_you_mean(key)}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return message
    found = "" if first["type"] == "missing" else f" = {first['input']!r}"
    return f"{key}{found}: {message[0].lower()}{message[1:]}{_meaning_of(key)}"


def _did_you_mean(key: str) -> str:
    known = {name: name.rpartition(".")[2] for name in _all_keys(Experiment)}
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    near = near or [name for name, last in known.items() if difflib.get_close_matches(key.rpartition(".")[2], [last])]
    if near:
        return f"; did you mean {near[0]!r}?"
    section = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == section] or list(Experiment.model_fields)
    return f"; expected one of {', '.join(siblings)}"


def _section_names() -> list[str]:
    return [name for name, info in Experiment.model_fields.items() if _section_of(info.annotation)]


def _all_keys(section: type[Section], prefix: str = "") -> dict[str, str]:
    """Dotted names of all knobs with their descriptions."""
    keys: dict[str, str] = {}
    for name, info in section.model_fields.items():
        inner = _section_of(info.annotation)
        keys |= _all_keys(inner, f"{prefix}{name}.") if inner else {prefix + name: info.description or ""}
    return keys


def _section_of(annotation: Any) -> type[Section] | None:
    kinds = [kind for kind in (annotation, *getattr(annotation, "__args__", ())) if isinstance(kind, type)]
    return next((kind for kind in kinds if issubclass(kind, Section)), None)


def _meaning_of(key: str) -> str:
    description = _all_keys(Experiment).get(key)
    return f" ({description})" if description else ""

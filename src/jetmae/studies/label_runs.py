"""The runs of a label study: pretrainings, the search for settings, and what is compared at the end.

    STUDY/pretrain-P0                          pretraining with seed 0
    STUDY/search/n100/finetune-c2-s100         candidate 2 of fine-tuning on 100 labels, with label seed 100
    STUDY/n100/finetune-P0-s3                  100 labels, pretraining 0, label seed 3

No pretraining and no run of the search reads test jets. A run's own seed says which jets are labelled.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

from jetmae.launch.stages import CHAIN, Member, Stage, make_member
from jetmae.studies.candidates import candidates
from jetmae.studies.protocol import SEARCHED, LabelProtocol, Settings, typed_settings

PRETRAINED = "pretrain"
WITHOUT_TEST = "data.use_test=false"
Chosen = dict[tuple[int, str], Settings]
"""The settings of each number of labels and method; a method that is not searched has none."""


@dataclass(frozen=True)
class Trial:
    """One run of the search: candidate number `number` of a method."""

    labels: int
    method: str
    number: int
    settings: Settings
    seed: int

    @property
    def path(self) -> str:
        """Below the folder of the study."""
        return f"search/n{self.labels}/{self.method}-c{self.number}-s{self.seed}"


def trials(protocol: LabelProtocol) -> list[Trial]:
    """All runs of the search, by number of labels, method, candidate and seed."""
    methods = [method for method in protocol.methods if method in SEARCHED]
    return [
        Trial(labels, method, number, settings, seed)
        for labels, method in product(protocol.labels, methods)
        for number, settings in enumerate(candidates(method, protocol.search))
        for seed in protocol.search.seeds
    ]


def first_stages(protocol: LabelProtocol, root: Path) -> list[Stage]:
    """Pretrainings, if a method needs them, and the search. The first pretraining serves the search."""
    needed = any(_source(method) == PRETRAINED for method in protocol.methods)
    stages = [Stage(PRETRAINED, pretrainings(protocol, root, protocol.pretrain_seeds))] if needed else []
    by_name: dict[str, list[Member]] = {}
    for trial in trials(protocol):
        by_name.setdefault(f"search/n{trial.labels}/{trial.method}", []).append(_trial_member(protocol, root, trial))
    return stages + [Stage(name, members, after=_after(name.rpartition("/")[2])) for name, members in by_name.items()]


def last_stages(protocol: LabelProtocol, root: Path, chosen: Chosen) -> list[Stage]:
    """What is compared, with the settings that were chosen; these runs read the test jets, once."""
    stages = []
    for labels, method in product(protocol.labels, protocol.methods):
        sources = protocol.pretrain_seeds if _source(method) == PRETRAINED else [None]
        settings = typed_settings(chosen.get((labels, method), {}))
        members = [
            method_member(protocol, root, f"n{labels}/{run_name(method, source, seed)}", method, source,
                          [*settings, f"data.train_jets={labels}", f"seed={seed}"])
            for source, seed in product(sources, protocol.label_seeds)
        ]  # fmt: skip
        stages.append(Stage(f"n{labels}/{method}", members, after=_after(method)))
    return stages


def untried(protocol: LabelProtocol) -> Chosen:
    """The first candidates: to check, before anything is trained, what will follow the search."""
    first = {method: candidates(method, protocol.search)[0] for method in SEARCHED}
    return {(labels, method): settings for labels, (method, settings) in product(protocol.labels, first.items())}


def pretrainings(protocol: LabelProtocol, root: Path, seeds: tuple[int, ...]) -> list[Member]:
    """One run for each seed."""
    overrides = protocol.overrides_of("pretrain")
    return [
        make_member("pretrain", protocol.config, [*overrides, f"seed={seed}", WITHOUT_TEST], f"pretrain-P{seed}", root)
        for seed in seeds
    ]


def run_name(method: str, source: int | str | None, seed: int) -> str:
    """`finetune-P0-s3`; without a pretraining `scratch-s3`."""
    return f"{method}-s{seed}" if source is None else f"{method}-P{source}-s{seed}"


def method_member(
    protocol: LabelProtocol, root: Path, path: str, method: str, source: int | None, more: list[str]
) -> Member:
    """A run of a method, at `path` below the study; `source` is the seed of its pretraining, if it has one."""
    task, initial = CHAIN[method]
    start = str(root / f"pretrain-P{source}") if initial == PRETRAINED else initial
    init_from = [] if start is None else [f"init_from={start}"]
    return make_member(task, protocol.config, [*protocol.overrides_of(task), *init_from, *more], path, root)


def _trial_member(protocol: LabelProtocol, root: Path, trial: Trial) -> Member:
    more = [*typed_settings(trial.settings), f"data.train_jets={trial.labels}", f"seed={trial.seed}", WITHOUT_TEST]
    return method_member(protocol, root, trial.path, trial.method, protocol.pretrain_seeds[0], more)


def _source(method: str) -> str | None:
    return CHAIN[method][1]


def _after(method: str) -> str | None:
    return PRETRAINED if _source(method) == PRETRAINED else None

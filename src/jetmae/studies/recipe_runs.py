"""The runs of a study of recipes: one pretraining for each recipe and seed, and what judges them.

    STUDY/log_sums-P0               recipe log_sums, pretraining seed 0
    STUDY/log_sums/probe-P0-s3      a probe on it, label seed 3

Every pretraining has the same number of steps. No run reads test jets: choosing a recipe is a search.
"""

from itertools import product
from pathlib import Path

from jetmae.launch.stages import CHAIN, Member, Stage, make_member
from jetmae.studies.label_runs import PRETRAINED, WITHOUT_TEST, run_name
from jetmae.studies.protocol import RecipeProtocol, typed_settings


def recipe_stages(protocol: RecipeProtocol, root: Path) -> list[Stage]:
    """All pretrainings, then for each recipe the methods."""
    pairs = list(product(protocol.recipes, protocol.pretrain_seeds))
    stages = [Stage(PRETRAINED, [_pretraining(protocol, root, recipe, seed) for recipe, seed in pairs])]
    for recipe, method in product(protocol.recipes, protocol.methods):
        seeds = product(protocol.pretrain_seeds, protocol.label_seeds)
        members = [_judge(protocol, root, recipe, method, source, seed) for source, seed in seeds]
        stages.append(Stage(f"{recipe}/{method}", members, after=PRETRAINED))
    return stages


def pretraining_path(recipe: str, seed: int) -> str:
    """Below the folder of the study."""
    return f"{recipe}-P{seed}"


def judge_path(recipe: str, method: str, source: int, seed: int) -> str:
    """Below the folder of the study; `source` is the seed of the pretraining."""
    return f"{recipe}/{run_name(method, source, seed)}"


def _pretraining(protocol: RecipeProtocol, root: Path, recipe: str, seed: int) -> Member:
    overrides = [
        *protocol.overrides_of("pretrain"),
        *typed_settings(protocol.recipes[recipe]),
        f"optim.steps={protocol.steps}",
        f"seed={seed}",
        WITHOUT_TEST,
    ]
    return make_member("pretrain", protocol.config, overrides, pretraining_path(recipe, seed), root)


def _judge(protocol: RecipeProtocol, root: Path, recipe: str, method: str, source: int, seed: int) -> Member:
    task = CHAIN[method][0]
    overrides = [
        *protocol.overrides_of(task),
        f"init_from={root / pretraining_path(recipe, source)}",
        f"data.train_jets={protocol.labels}",
        f"seed={seed}",
        WITHOUT_TEST,
    ]
    return make_member(task, protocol.config, overrides, judge_path(recipe, method, source, seed), root)

"""The settings that a search tries: every combination of the values in its grid."""

from itertools import product

from jetmae.studies.protocol import Search, Settings

FINE_TUNING_ALONE = "optim.layer_decay"  # from scratch there are no layers to keep


def candidates(method: str, search: Search) -> list[Settings]:
    """What is tried for a method, in the order of the grid; one that changes nothing without a grid.

    Fine-tuning and scratch try the same values; layer decay is left out where it does not apply.
    """
    grid = {key: values for key, values in search.grid.items() if method == "finetune" or key != FINE_TUNING_ALONE}
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]

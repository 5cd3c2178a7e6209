"""What the loader makes for a rank: a pure function of seed, step and position, whoever asks and from where on."""

from itertools import islice

import numpy as np
import pytest

from jetmae.data.batch import Batch
from jetmae.data.loader import Share, evaluation_batches, training_batches
from jetmae.data.shards import JetDataset
from tests.unit.test_shards import random_images, write_dataset

JETS, COLUMNS = 30, 11


@pytest.fixture
def dataset(tmp_path):
    write_dataset(tmp_path, random_images(JETS))
    return JetDataset(tmp_path, "train")


def steps(dataset: JetDataset, share: Share, *, first_step: int = 0, seed: int = 4) -> list[list[Batch]]:
    """The next three steps of an epoch of three."""
    batches = training_batches(dataset, np.arange(JETS), share, seed=seed, noise_columns=COLUMNS, first_step=first_step)
    return list(islice(batches, 3))


def noise(micro_batches: list[Batch]) -> np.ndarray:
    return np.concatenate([batch.noise_BN.numpy() for batch in micro_batches])


def ids(micro_batches: list[Batch]) -> np.ndarray:
    return np.concatenate([batch.ids_B.numpy() for batch in micro_batches])


def test_a_batch_says_which_step_it_is_for(dataset):
    found = steps(dataset, Share(0, 1, 5, 2), first_step=2)
    assert [[batch.step for batch in micro_batches] for micro_batches in found] == [[2, 2], [3, 3], [4, 4]]
    (first, *_) = evaluation_batches(dataset, np.arange(4), Share(0, 1, 5, 2), seed=4, noise_columns=COLUMNS)
    assert first.step == 0


def test_a_resumed_loader_goes_on_where_the_other_stopped(dataset):
    share = Share(0, 1, 5, 2)
    whole, resumed = steps(dataset, share), steps(dataset, share, first_step=1)
    for expected, found in zip(whole[1:], resumed, strict=False):
        assert np.array_equal(noise(found), noise(expected))
        assert np.array_equal(ids(found), ids(expected))


@pytest.mark.parametrize("ranks", [2, 5])
def test_jets_and_noise_of_a_step_do_not_depend_on_the_layout(dataset, ranks):
    whole = steps(dataset, Share(0, 1, 10, 1))
    of_ranks = [steps(dataset, Share(rank, ranks, 1, 10 // ranks)) for rank in range(ranks)]
    for step, expected in enumerate(whole):
        together = [batch for rank in of_ranks for batch in rank[step]]
        assert np.array_equal(noise(together), noise(expected))
        assert np.array_equal(ids(together), ids(expected))


def test_each_jet_of_each_step_and_seed_has_noise_of_its_own(dataset):
    share = Share(0, 1, 10, 1)
    found = np.concatenate([noise(step) for seed in (4, 5) for step in steps(dataset, share, seed=seed)])
    assert len(np.unique(found, axis=0)) == 60


def test_the_noise_of_an_evaluated_jet_depends_on_its_id_alone(dataset):
    def evaluated(chosen: list[int], size: int, seed: int = 4) -> dict[int, bytes]:
        share = Share(0, 1, size, 1)
        batches = evaluation_batches(dataset, np.array(chosen), share, seed=seed, noise_columns=COLUMNS)
        return {int(i): row.tobytes() for b in batches for i, row in zip(b.ids_B, b.noise_BN.numpy(), strict=True)}

    few, many = evaluated([7, 3], 1), evaluated(list(range(JETS)), 4)
    assert few == {jet: many[jet] for jet in (7, 3)}
    assert len(set(many.values())) == JETS
    assert evaluated([7, 3], 1, seed=5) != few

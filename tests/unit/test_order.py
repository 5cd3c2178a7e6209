"""Sample order, shares of ranks, noise: pure functions of seed and place."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetmae.data.loader import Prefetched, Share
from jetmae.data.order import evaluation_slices, few_labels, global_batch, some_jets, steps_per_epoch
from jetmae.randomness import Purpose, uniform_block, uniform_rows


def test_an_epoch_serves_each_jet_at_most_once_and_the_next_one_in_another_order():
    per_epoch = steps_per_epoch(103, 10)
    epochs = [
        np.concatenate([global_batch(e * per_epoch + s, num_jets=103, batch_size=10, seed=1) for s in range(per_epoch)])
        for e in range(2)
    ]
    assert per_epoch == 10
    assert all(len(set(epoch)) == 100 for epoch in epochs)
    assert not np.array_equal(*epochs)
    assert not np.array_equal(epochs[0][:10], global_batch(0, num_jets=103, batch_size=10, seed=2))


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4))
def test_shares_of_all_ranks_are_the_global_batch(ranks, micro_batch_size, accumulation):
    shares = [Share(rank, ranks, micro_batch_size, accumulation) for rank in range(ranks)]
    positions = [p for share in shares for part in share.micro_batches() for p in range(part.start, part.stop)]
    assert sorted(positions) == list(range(shares[0].batch_size))


@given(st.integers(1, 50), st.integers(1, 4), st.integers(1, 7))
def test_evaluation_counts_each_jet_once_and_all_ranks_do_equally_many_batches(num_jets, ranks, batch_size):
    slices = [evaluation_slices(num_jets, rank=r, ranks=ranks, batch_size=batch_size) for r in range(ranks)]
    counted = [i for rank in slices for ids, counts in rank for i in ids[counts]]
    assert sorted(counted) == list(range(num_jets))
    assert len({len(rank) for rank in slices}) == 1
    assert all(len(ids) == batch_size and ids.max() < num_jets for rank in slices for ids, _ in rank)


def test_fewer_labels_are_contained_in_more():
    chosen = [set(few_labels(100, wanted, seed=3)) for wanted in (10, 40, None)]
    assert [len(c) for c in chosen] == [10, 40, 100]
    assert chosen[0] < chosen[1] < chosen[2]


def test_some_jets_of_a_split_sorted_by_class_are_of_both_classes_and_more_contain_fewer():
    split = np.arange(100, 1100)
    chosen = [some_jets(split, wanted) for wanted in (32, 128)]
    for wanted, ids in zip((32, 128), chosen, strict=True):
        assert len(ids) == wanted
        assert np.array_equal(ids, np.unique(ids))
        assert 0.3 < np.mean(ids < 600) < 0.7
    assert set(chosen[0]) < set(chosen[1]) < set(split)
    assert np.array_equal(chosen[0], some_jets(split, 32))


@pytest.mark.parametrize("wanted", [None, 5, 6])
def test_all_jets_are_wanted_and_keep_their_order(wanted):
    assert np.array_equal(some_jets(np.array([3, 1, 4, 1, 5]), wanted), [3, 1, 4, 1, 5])


def test_noise_depends_on_its_place_alone():
    together = uniform_rows(5, Purpose.TRAIN_NOISE, [(2, 0), (2, 1), (3, 1)], 625)
    alone = uniform_rows(5, Purpose.TRAIN_NOISE, [(2, 1)], 625)
    assert np.array_equal(together[1], alone[0])
    assert len({row.tobytes() for row in together}) == 3
    assert not np.array_equal(alone, uniform_rows(5, Purpose.EVALUATION_NOISE, [(2, 1)], 625))
    assert not np.array_equal(alone, uniform_rows(6, Purpose.TRAIN_NOISE, [(2, 1)], 625))
    assert together.mean() == pytest.approx(0.5, abs=0.02)
    assert together.min() >= 0
    assert together.max() < 1


@pytest.mark.parametrize("columns", [0, 1, 8, 625])
def test_a_row_of_noise_is_the_same_in_every_block(columns):
    whole = uniform_block(5, Purpose.TRAIN_NOISE, 2, range(12), columns)
    parts = [uniform_block(5, Purpose.TRAIN_NOISE, 2, rows, columns) for rows in (range(5), range(5, 6), range(6, 12))]
    assert whole.shape == (12, columns)
    assert np.array_equal(np.concatenate(parts), whole)


def test_no_two_rows_of_noise_are_alike():
    blocks = [
        uniform_block(seed, purpose, step, range(50), 625)
        for seed, purpose, step in (
            (5, Purpose.TRAIN_NOISE, 2),
            (5, Purpose.TRAIN_NOISE, 3),
            (5, Purpose.EVALUATION_NOISE, 2),
            (6, Purpose.TRAIN_NOISE, 2),
        )
    ]
    noise = np.concatenate(blocks)
    assert len(np.unique(noise[:, 0])) == len(noise)
    assert np.abs(np.corrcoef(noise) - np.eye(len(noise))).max() < 0.25
    assert noise.mean() == pytest.approx(0.5, abs=0.01)
    assert noise.min() >= 0
    assert noise.max() < 1


def test_prefetched_hands_items_and_errors_over_in_order():
    def items():
        yield 1
        yield 2
        raise RuntimeError("broken")

    prefetched = Prefetched(items())
    assert next(prefetched) == 1
    assert next(prefetched) == 2
    with pytest.raises(RuntimeError, match="broken"):
        next(prefetched)
    endless = Prefetched(iter(int, 1))
    assert next(endless) == 0
    endless.close()
    assert not endless._thread.is_alive()

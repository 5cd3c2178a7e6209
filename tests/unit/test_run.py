"""Which jets a run is scored on and pictures, and what a probe knows of them: the same on any number of ranks."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from jetmae import evaluation
from jetmae.config import Experiment, load_experiment
from jetmae.data.observables import observables
from jetmae.data.rank_batches import RankBatches
from jetmae.data.sparse import densify
from jetmae.metrics import auc
from jetmae.model.patches import patchify, unpatchify
from jetmae.run import Run
from jetmae.run_folder import RunFolder
from jetmae.runtime.world import World
from jetmae.tasks.boosted_trees import scores_of_trees
from jetmae.tasks.reconstruct import evenly_spaced
from tests.conftest import TINY, TINY_DECODER

PIXELS = (  # are predicted, of whole hidden patches, as the seed does
    "data.transform=none",
    "augment.flips=false",
    "model.tokens=all",
    "reconstruct.masks=null",
    "reconstruct.targets=null",
    "reconstruct.mean_image_offset=false",
    "reconstruct.decoder=attention",
)


def make_run(sample, tmp_path, *, ranks: int = 1, rank: int = 0, more: tuple[str, ...] = ()) -> Run:
    experiment = load_experiment("pretrain", "small", [f"data.path={sample}", *TINY, *TINY_DECODER, *PIXELS, *more])
    world = World(rank, ranks, rank, torch.device("cpu"))
    return Run(RunFolder(tmp_path), experiment, world, lease=None)


def scored_ids(run: Run, split: str, limit: int | None) -> list[int]:
    return [int(i) for batch in run.batches.of_split(split, limit=limit) for i in batch.ids_B[batch.counts_B]]


@pytest.mark.parametrize("more", [(), ("seed=5",)])
def test_all_ranks_together_score_the_same_jets_from_all_over_a_split(sample, tmp_path, more):
    alone = make_run(sample, tmp_path)
    split = alone.plan.validation_split
    jets = len(alone.datasets[split])
    assert scored_ids(alone, split, None) == list(range(jets))
    wanted = scored_ids(alone, split, 32)
    assert len(wanted) == 32
    assert max(wanted) > jets / 2 > min(wanted)
    parts = [scored_ids(make_run(sample, tmp_path, ranks=2, rank=r, more=more), split, 32) for r in (0, 1)]
    assert sorted(parts[0] + parts[1]) == wanted


def test_of_the_selected_training_jets_some_are_scored(sample, tmp_path):
    run = make_run(sample, tmp_path, more=("data.train_jets=100",))
    scored = scored_ids(run, run.plan.train_split, 32)
    assert set(scored) < set(run.batches.selection)
    assert scored != list(run.batches.selection[:32])


def test_pictures_are_of_jets_from_all_over_the_scored_ones(sample, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "PICTURED_JETS", 8)
    run = make_run(sample, tmp_path)
    run.folder.evaluation.mkdir()
    pictured = []
    make_batches = RankBatches.alone

    def alone(batches, split, ids):
        pictured.extend(ids)
        return make_batches(batches, split, ids)

    monkeypatch.setattr(RankBatches, "alone", alone)
    run.evaluation.evaluate_split(run.task.network.eval(), "validation", run.plan.validation_split)
    with np.load(run.folder.evaluation / "reconstruction_validation.npz") as found:
        scored, images = found["sample_id"], found["image"]
        assert found["pictured_jets"] == 8
    assert len(pictured) == 8
    assert set(pictured) < set(scored)
    assert max(pictured) > np.median(scored) > min(pictured)
    (batch,) = make_batches(run.batches, run.plan.validation_split, np.array(pictured)[evenly_spaced(8, 4)])
    expected = run.task.context.images.to_source_units(run.task.context.images(batch))
    assert np.array_equal(images, expected[: len(images)])


def scored_images(run: Run, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The images of the scored jets of a split in the space of the loss, and where they are hidden."""
    images, hidden = [], []
    for batch in run.batches.scored(split):
        images.append(in_loss_space(run, run.task.context.images(batch))[batch.counts_B])
        mask = run.task.pictures(run.task.network, batch)["mask"][batch.counts_B.numpy()]
        hidden.append(torch.from_numpy(mask)[:, None])
    return torch.cat(images).double(), torch.cat(hidden)


def in_loss_space(run: Run, images: torch.Tensor) -> torch.Tensor:
    if not run.experiment.reconstruct.norm_pix_loss:
        return images
    size = run.experiment.model.patch_size
    patches = patchify(images, size)
    mean, std = patches.mean(2, keepdim=True), (patches.var(2, keepdim=True) + 1e-6).sqrt()
    return unpatchify((patches - mean) / std, images.shape[1:], size)


@pytest.mark.parametrize("more", [(), ("reconstruct.norm_pix_loss=true",)])
@torch.no_grad()
def test_the_mean_training_jet_is_scored_where_the_network_is(sample, tmp_path, more):
    run = make_run(sample, tmp_path, more=more)
    split = run.plan.test_split
    assert "sse_of_mean_image" not in run.evaluation.evaluate(run.task.network, split, "evaluate")[1]
    run.evaluation.learn_reference()
    per_jet = run.evaluation.evaluate(run.task.network, split, "evaluate")[1]
    training = scored_images(run, run.plan.train_split)[0]
    images, hidden = scored_images(run, split)
    noise = training.var(dim=0) / len(training)
    expected = (hidden * ((images - training.mean(dim=0)) ** 2 - noise)).sum((2, 3))
    np.testing.assert_allclose(per_jet["sse_of_mean_image"], expected, rtol=1e-5)
    np.testing.assert_allclose(per_jet["sum_of_squares"], (hidden * images**2).sum((2, 3)), rtol=1e-5)


@dataclass(frozen=True)
class ThreadWorld(World):
    """Ranks that are threads of this process; what they exchange are rows of equal number, and flags."""

    meeting: threading.Barrier
    desk: list

    def gather_rows(self, rows):
        self.desk[self.rank] = rows
        self.meeting.wait(60)
        gathered = torch.cat(list(self.desk))
        self.meeting.wait(60)
        return gathered

    def sum(self, tensor):
        return self.gather_rows(tensor[None]).sum(0)

    def gather(self, content):
        raise AssertionError("pickles of features would be several times their size on every rank")


def on_threads(does: Callable[[Run], None], experiment: Experiment, tmp_path, ranks: int) -> list[Run]:
    meeting, desk = threading.Barrier(ranks), [None] * ranks
    worlds = [ThreadWorld(rank, ranks, rank, torch.device("cpu"), meeting, desk) for rank in range(ranks)]
    runs = [Run(RunFolder(tmp_path), experiment, world, lease=None) for world in worlds]
    with ThreadPoolExecutor(ranks) as pool:
        list(pool.map(does, runs))
    return runs


def test_every_rank_has_the_same_mean_image_on_any_number_of_ranks(sample, tmp_path):
    words = [f"data.path={sample}", *TINY, *TINY_DECODER, *PIXELS, "data.evaluation_jets=33"]
    experiment = load_experiment("pretrain", "small", words)
    (alone,) = on_threads(lambda run: run.evaluation.learn_reference(), experiment, tmp_path, ranks=1)
    for run in on_threads(lambda run: run.evaluation.learn_reference(), experiment, tmp_path, ranks=2):
        torch.testing.assert_close(vars(run.task.mean_image), vars(alone.task.mean_image), rtol=1e-12, atol=1e-12)


def probes_with_features(sample, tmp_path, ranks: int, init_from: str = "random") -> list[Run]:
    more = ("data.train_jets=101", f"init_from={init_from}", "optim.batch_size=32", "engine.micro_batch_size=16")
    experiment = load_experiment("probe", "small", [f"data.path={sample}", *TINY, *more])
    return on_threads(lambda run: run.task.prepare(run.batches), experiment, tmp_path, ranks)


@pytest.mark.parametrize(("init_from", "num_features"), [("random", 5 * 16), ("observables", 112)])
def test_each_rank_holds_the_features_of_the_selected_jets_once_and_bit_for_bit(
    sample, tmp_path, init_from, num_features
):
    (alone,) = probes_with_features(sample, tmp_path, 1, init_from)
    for run in probes_with_features(sample, tmp_path, 2, init_from):
        for split, (ids, features) in alone.task.features.items():
            assert torch.equal(run.task.features[split][0], ids)
            assert torch.equal(run.task.features[split][1], features)
            assert torch.isfinite(features).all()
        assert run.task.features[run.plan.train_split][1].shape == (101, num_features)
        for name, numbers in run.task.network.state_dict().items():
            assert torch.equal(numbers, alone.task.network.state_dict()[name])


def test_a_jet_is_judged_by_its_own_features(sample, tmp_path):
    (run,) = probes_with_features(sample, tmp_path, ranks=1)
    for split in run.datasets:
        for batch in run.batches.of_split(split, limit=20):
            jets = run.task.context.look(batch, run.task.classifier)
            expected = run.task.network(run.task.classifier.features(*run.task.region(jets)))
            assert torch.allclose(run.task.logits(run.task.network, batch), expected, atol=1e-6)


def test_observables_are_those_of_the_images_as_they_are_stored(sample, tmp_path):
    experiment = load_experiment("probe", "small", [f"data.path={sample}", "init_from=observables"])
    run = Run(RunFolder(tmp_path), experiment, World(0, 1, 0, torch.device("cpu")), lease=None)
    dataset = run.datasets["test"]
    images = torch.from_numpy(densify(dataset.gather(np.arange(16)), dataset.manifest.image_shape, 5))
    (batch,) = run.batches.alone("test", np.arange(16))
    expected = observables(images, dataset.manifest.channels)
    torch.testing.assert_close(run.task.look(batch)[1], expected, rtol=1e-3, atol=1e-3)


def test_boosted_trees_are_kept_beside_the_logistic_regression(sample, tmp_path):
    words = [f"data.path={sample}", *TINY, "data.train_jets=101", "init_from=observables"]
    experiment = load_experiment("probe", "small", words)
    run = Run(RunFolder(tmp_path), experiment, World(0, 1, 0, torch.device("cpu")), lease=None)
    run.task.prepare(run.batches)
    run.folder.evaluation.mkdir()
    run.evaluation.evaluate_split(run.task.network.eval(), "test", run.plan.test_split)
    with np.load(run.folder.evaluation / "predictions_test.npz") as found:
        assert len(found["score"]) == len(found["score_of_boosted_trees"]) == 32
        assert auc(found["score_of_boosted_trees"], found["label"]) > 0.8
        assert found["score_of_boosted_trees"].dtype == np.float32
        # The other jets of the split are not scored, and features stand in the order of their ids.
        ids, features = run.task.features["test"]
        rows = np.searchsorted(ids.numpy(), found["sample_id"])
        labels = run.datasets["train"].column("label")[run.batches.selection]
        expected = scores_of_trees(run.task.features["train"][1].numpy(), labels, features[rows].numpy(), seed=0)
        assert np.array_equal(found["score_of_boosted_trees"], expected)


def test_without_two_classes_there_are_no_trees():
    features = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    assert scores_of_trees(features, np.ones(20, np.int64), features, seed=0) is None
    assert scores_of_trees(features, (features[:, 0] > 0).astype(np.int64), features, seed=0).shape == (20,)


def test_examples_reach_from_the_first_to_the_last_picture():
    assert evenly_spaced(128, 4).tolist() == [0, 42, 84, 127]
    assert evenly_spaced(3, 4).tolist() == [0, 1, 2]

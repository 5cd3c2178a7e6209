"""Run folders as the report reads them, made of random numbers with known truths."""

import json
from pathlib import Path

import numpy as np
import yaml

CHANNELS = ("track_pt", "d0", "dz", "ecal", "hcal", "bpix1", "bpix2", "bpix3")
UNITS = ("GeV", "cm", "cm", "GeV", "GeV", "hits", "hits", "hits")


def make_run(
    folder: Path,
    task: str,
    *,
    init_from: str | None = None,
    seed: int = 1,
    train_jets: int | None = None,
    completed: bool = True,
) -> Path:
    """config, metrics of 12 steps in two epochs, attempts."""
    folder.mkdir(parents=True)
    data = {"path": "data/top", "transform": "asinh", "train_jets": train_jets}
    config = {
        "task": task,
        "seed": seed,
        "init_from": init_from,
        "data": data,
        "model": {"dim": 8},
        "optim": {"lr": 1e-3},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [row for step in range(1, 13) for row in metric_rows(task, step)]
    write_lines(folder / "metrics.jsonl", rows)
    write_lines(folder / "attempts.jsonl", [{"attempt": 1, "event": "start", "world_size": 2}])
    if completed:
        with (folder / "attempts.jsonl").open("a") as stream:
            stream.write(json.dumps({"attempt": 1, "event": "end", "cause": "completed"}) + "\n")
        (folder / "COMPLETED").touch()
    return folder


def metric_rows(task: str, step: int) -> list[dict]:
    shared = {"step": step, "samples": 64 * step, "epoch": step / 6, "attempt": 1, "time_s": 2.0 * step}
    loss = 0.2 + 0.8 / step
    rows = [{"split": "train", "loss": loss, "lr": 1e-3 / step, "grad_norm": 1.0, "jets_per_s": 50.0, **shared}]
    if step % 6 == 0:
        extra = (
            {"explained_variance": dict.fromkeys(CHANNELS, 0.1)}
            if task == "pretrain"
            else {"accuracy": 0.7, "auc": 0.8}
        )
        rows.append({"split": "validation", "loss": loss + 0.05, **shared, **extra})
    return rows


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def add_predictions(folder: Path, separation: float, *, num_jets: int = 400, shuffle_seed: int | None = None) -> None:
    """Scores of the same jets in every run: a common difficulty per jet, plus what the run adds to it."""
    shared = np.random.default_rng(0)
    label = shared.integers(0, 2, num_jets)
    difficulty = shared.normal(size=num_jets)
    own = np.random.default_rng(int(1000 * separation)).normal(scale=0.3, size=num_jets)
    score = 1 / (1 + np.exp(-(separation * (2 * label - 1) + difficulty + own)))
    order = np.arange(num_jets) if shuffle_seed is None else np.random.default_rng(shuffle_seed).permutation(num_jets)
    arrays = {
        "score": score.astype(np.float32),
        "label": label.astype(np.int8),
        "sample_id": np.arange(num_jets, dtype=np.int64) + 7,
        "pt_gev": shared.uniform(400, 800, num_jets).astype(np.float32),
    }
    (folder / "evaluation").mkdir(exist_ok=True)
    for split in ("test", "validation"):
        path = folder / "evaluation" / f"predictions_{split}.npz"
        np.savez(path, classes=np.array(["qcd", "top"]), **{key: value[order] for key, value in arrays.items()})


def add_reconstruction(folder: Path, split: str, *, side: int = 25, num_jets: int = 30, units: tuple = UNITS) -> None:
    """Two sparse example jets, one of each class.

    HCAL is explained to 50 % (20 % by the mean image), the last channel is constant.
    """
    random = np.random.default_rng(len(split))
    image = random.exponential(1.0, (2, 8, side, side)) * (random.random((2, 8, side, side)) < 0.1)
    image[:, 1:3] *= random.choice([-1, 1], image[:, 1:3].shape)
    value = random.normal(size=(num_jets, 8, 50))
    value[:, -1] = 3.0
    left_over = np.ones(8)
    left_over[4] = 0.5
    as_mean_image = np.where(np.arange(8) == 4, 0.8, 1.0)
    arrays = {
        "image": image.astype(np.float32),
        "reconstruction": (0.5 * image).astype(np.float32),
        "mask": np.kron(random.random((2, side // 5, side // 5)) < 0.75, np.ones((5, 5))).astype(bool),
        "label": np.array([0, 1], dtype=np.int8),
        "sse": left_over * (value**2).sum(-1),
        "sse_of_mean_image": as_mean_image * (value**2).sum(-1),
        "sum": value.sum(-1),
        "sum_of_squares": (value**2).sum(-1),
        "count": np.full(num_jets, 50),
        "mean_image": np.abs(image).mean(0).astype(np.float32),
        "mean_reconstruction": (0.5 * np.abs(image).mean(0)).astype(np.float32),
    }
    (folder / "evaluation").mkdir(exist_ok=True)
    text = {"channels": np.array(CHANNELS), "units": np.array(units), "loss_space": np.array("asinh, then z-score")}
    np.savez(folder / "evaluation" / f"reconstruction_{split}.npz", **arrays, **text)


def make_chain(root: Path) -> list[Path]:
    """The five runs of the experiment, finished."""
    pretrain = make_run(root / "pretrain", "pretrain")
    for split in ("train", "test"):
        add_reconstruction(pretrain, split)
    classifiers = (
        ("scratch", "scratch", None, 0.6),
        ("finetune", "finetune", str(pretrain), 1.2),
        ("probe", "probe", str(pretrain), 0.5),
        ("probe-random", "probe", "random", 0.4),
    )
    folders = [pretrain]
    for name, task, init_from, separation in classifiers:
        folders.append(make_run(root / name, task, init_from=init_from))
        add_predictions(folders[-1], separation)
    return folders


# --- a study of label efficiency, with every array that a report knows -----------------------------------------------

LABEL_COUNTS = (100, 300, 1000, 3000)
# Separation of the classes with the fewest labels and with the most: of each kind of run.
SEPARATIONS = {
    "finetune": (1.14, 1.30),
    "scratch": (0.89, 1.20),
    "probe": (1.22, 1.25),
    "random": (0.25, 0.6),
    "observables": (1.5, 1.7),
}
# Share of the variance that is explained, by mask and predictor; in d0 and dz a tenth of that.
EXPLAINED = {
    "patches": {"": 0.28, "_of_ridge": 0.25, "_of_scaled_mean_image": 0.20, "_of_mean_image": 0.18},
    "patch_groups": {"": 0.35, "_of_ridge": 0.32, "_of_scaled_mean_image": 0.22, "_of_mean_image": 0.18},
    "groups": {"": 0.42, "_of_ridge": 0.39, "_of_scaled_mean_image": 0.24, "_of_mean_image": 0.18},
}


def make_study(
    root: Path,
    *,
    seeds: int = 3,
    label_counts: tuple[int, ...] = LABEL_COUNTS,
    splits: tuple[str, ...] = ("train", "test"),
    masks: tuple[str, ...] = tuple(EXPLAINED),
) -> list[Path]:
    """Two pretrainings of one recipe; for each number of labels and seed, all kinds of classifiers."""
    pretrainings = [make_run(root / f"pretrain-{seed}", "pretrain", seed=seed) for seed in (0, 1)]
    for split in splits:
        add_reconstruction(pretrainings[0], split, side=125)
    add_hidden_sums(pretrainings[0], masks=masks)
    add_closure(pretrainings[0])
    folders = list(pretrainings)
    for number, count in enumerate(label_counts):
        share = number / max(1, len(label_counts) - 1)
        for seed in range(seeds):
            starts = {"finetune": pretrainings, "probe": pretrainings, "scratch": [None]}
            starts |= {"random": ["random"], "observables": ["observables"]}
            for name, sources in starts.items():
                for which, source in enumerate(sources):
                    task = "probe" if name in ("random", "observables") else name
                    folder = root / f"{name}-{which}-{count}-{seed}"
                    make_run(folder, task, init_from=source and str(source), seed=seed, train_jets=count)
                    low, high = SEPARATIONS[name]
                    luck = np.random.default_rng([number, seed, which, len(name)]).normal(scale=0.03)
                    add_predictions(folder, low + share * (high - low) + luck, num_jets=1500)
                    if name == "observables":
                        add_trees(folder)
                    folders.append(folder)
    return folders


def add_trees(folder: Path) -> None:
    """Boosted trees, a little worse than the logistic regression beside them."""
    for path in (folder / "evaluation").glob("predictions_*.npz"):
        with np.load(path) as archive:
            arrays = dict(archive)
        noise = np.random.default_rng(5).normal(scale=0.5, size=arrays["score"].size)
        logit = np.log(arrays["score"] / np.maximum(1 - arrays["score"], 1e-6)) + noise
        np.savez(path, **arrays, score_of_boosted_trees=(1 / (1 + np.exp(-logit))).astype(np.float32))


def add_hidden_sums(folder: Path, *, num_jets: int = 400, masks: tuple[str, ...] = tuple(EXPLAINED)) -> None:
    """For every mask and space the sums of the truth, and squared errors that explain what EXPLAINED says."""
    arrays = {}
    for mask in masks:
        for space in ("pixels", "sums", "log_sums"):
            random = np.random.default_rng([len(mask), len(space)])
            value = random.gamma(2.0, size=(num_jets, len(CHANNELS), 60))
            weight = random.gamma(4.0, 0.25, size=(num_jets, 1))  # jets that are hard for everybody
            hidden = {"sum": value.sum(-1), "sum_of_squares": (value**2).sum(-1)}
            hidden["count"] = np.full(value.shape[:2], 60.0)
            spread = ((value - 2.0) ** 2).sum(-1) * weight / weight.mean()
            for name, share in EXPLAINED[mask].items():
                per_channel = np.where(np.isin(CHANNELS, ("d0", "dz")), 0.1 * share, share)
                own = random.normal(scale=0.02, size=spread.shape)
                hidden[f"sse{name}"] = spread * (1 - per_channel + own)
            arrays |= {f"{mask}/{space}/{name}": array for name, array in hidden.items()}
    _add_arrays(folder / "evaluation" / "reconstruction_test.npz", arrays)


def add_closure(folder: Path, *, num_jets: int = 600) -> None:
    """Jet pT, mass and hits, reconstructed with a scale of 0.9 and a resolution of 15 %."""
    random = np.random.default_rng(9)
    truths = {
        "jet_pt_gev": random.exponential(120, num_jets) + 400,
        "jet_mass_gev": random.gamma(4.0, 30.0, num_jets),
        "bpix1_hits": random.poisson(400, num_jets) + 1.0,
    }
    arrays = {}
    for what, truth in truths.items():
        arrays[f"closure/{what}/truth"] = truth
        arrays[f"closure/{what}/reconstructed"] = 0.9 * truth * (1 + 0.15 * random.normal(size=num_jets))
    _add_arrays(folder / "evaluation" / "reconstruction_test.npz", arrays)


def _add_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with np.load(path) as archive:
        known = dict(archive)
    np.savez(path, **known | arrays)

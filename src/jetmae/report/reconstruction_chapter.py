"""The chapter on one pretraining: what it explains, single jets, closure, mean images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jetmae.report import closure_figures, event_figures, explained_variance_figures, reconstruction_figures
from jetmae.report.closure import ClosureSummary, split_by_unit, summary
from jetmae.report.comparison import Row, explained_variance_columns, format_measurement
from jetmae.report.evaluation_results import ClosurePair, Reconstruction
from jetmae.report.explained_variance import HiddenScore, hidden_scores, verdict
from jetmae.report.figure_style import MINUS
from jetmae.report.picture import Picture, picture_of, slug
from jetmae.report.run_reader import RecordedRun

_ENERGY_CHANNELS = ("pt", "ecal", "hcal")
_DEFAULT_PATCH = 5  # pixels; of a configuration that does not say

Table = tuple[list[str], list[tuple[str, list[str]]]]  # headings, and for each line its name and a text per heading


@dataclass(frozen=True)
class HiddenChapter:
    """What one kind of mask hides, in one space."""

    title: str
    verdict: str
    picture: Picture
    table: Table


@dataclass(frozen=True)
class ReconstructionChapter:
    """Everything the page shows of one pretraining."""

    name: str
    splits: list[str]
    loss_space: str
    explained: Table | None
    has_mean_image: bool
    bars: list[Picture]
    hidden: list[HiddenChapter]
    events: list[Picture]
    more_events: list[Picture]
    closure: list[Picture]
    means: list[Picture]
    notes: list[str]
    scores: list[HiddenScore]
    closures: list[ClosureSummary]

    @property
    def pictures(self) -> list[Picture]:
        hidden = [chapter.picture for chapter in self.hidden]
        return [*hidden, *self.bars, *self.events, *self.more_events, *self.closure, *self.means]


def reconstruction_chapter(run: RecordedRun, row: Row) -> ReconstructionChapter:
    """Of a run of kind pretrain and its row of the comparison."""
    splits = {split: found for split in ("train", "test") if (found := run.reconstruction(split)) is not None}
    first = next(iter(splits.values()), None)
    notes = unit_notes(first)
    scores = hidden_scores(run.hidden_sums())
    pairs, refused = split_by_unit(run.closure(), has_gev=not notes)
    events = [picture for split, found in splits.items() for picture in _events(run, split, found)]
    return ReconstructionChapter(
        name=run.name,
        splits=list(splits),
        loss_space=first.loss_space if first else "",
        explained=explained_variance_columns(row) if row.explained_variance else None,
        has_mean_image=bool(row.by_mean_image),
        bars=_bars(run, row),
        hidden=[_hidden(run, score) for score in scores],
        events=[picture for picture, first in events if first],
        more_events=[picture for picture, first in events if not first],
        closure=_closure(run, pairs),
        means=[_mean(run, split, found) for split, found in splits.items() if found.image.size],
        notes=[*notes, *([refused] if refused else [])],
        scores=scores,
        closures=[summary(pair) for pair in pairs],
    )


def _closure(run: RecordedRun, pairs: Sequence[ClosurePair]) -> list[Picture]:
    if not pairs:
        return []
    text = "Reconstructed against true properties of whole test jets; below, median and central 68 % of their ratio."
    return [picture_of(f"{slug(run.name)}_closure", closure_figures.closure(pairs), text, text)]


def _hidden(run: RecordedRun, score: HiddenScore) -> HiddenChapter:
    figure = explained_variance_figures.hidden_score_bars(score)
    text = f"Explained variance per channel of {run.name} and of simple predictors. {score.title}"
    picture = picture_of(f"{slug(run.name)}_{score.mask}_{score.space}", figure, text)
    return HiddenChapter(score.title, verdict(score), picture, _hidden_table(score))


def _hidden_table(score: HiddenScore) -> Table:
    columns = list(score.explained.values())
    headings = list(score.explained)
    texts = {c: [format_measurement(column[c], percent=True) for column in columns] for c in columns[0]}
    for predictor, per_channel in score.gain.items():
        headings.append(f"network {MINUS} {predictor}")
        for channel, measured in per_channel.items():
            texts[channel].append(format_measurement(measured, percent=True, signed=True))
    return headings, list(texts.items())


def _bars(run: RecordedRun, row: Row) -> list[Picture]:
    if not row.explained_variance:
        return []
    figure = reconstruction_figures.explained_variance_bars(row.explained_variance, row.by_mean_image)
    return [picture_of(f"{slug(run.name)}_explained_variance", figure, f"Explained variance per channel, {run.name}")]


def _events(run: RecordedRun, split: str, found: Reconstruction) -> Iterable[tuple[Picture, bool]]:
    """The first jet of each class, or the first jet, with the word whether it is the split's first.

    Each has two pictures: the detectors together, and channel by channel.
    """
    labels = found.label.tolist() if found.label is not None else [0] * len(found.image)
    patch_size = int((run.config.get("model") or {}).get("patch_size") or _DEFAULT_PATCH)
    for label in dict.fromkeys(labels):
        example = labels.index(label)
        jet = f"{'Training' if split == 'train' else 'Test'} jet{_of_class(found, example)}"
        caption = f"{jet}; {100 * found.hidden[example].mean():.0f} % of it hidden."
        name = f"{slug(run.name)}_event_{split}_{example}"
        together = event_figures.detectors(found, example, patch_size)
        if together is not None:
            yield picture_of(f"{name}_detectors", together, f"All detectors. {caption}", caption), example == 0
        figure = event_figures.channels(found, example, patch_size)
        yield picture_of(name, figure, f"Channel by channel. {caption}", caption), example == 0


def _of_class(found: Reconstruction, example: int) -> str:
    """`, top`, or nothing where the data does not say."""
    if found.label is None or found.classes is None:
        return ""
    return f", {found.classes[int(found.label[example])]}"


def _mean(run: RecordedRun, split: str, found: Reconstruction) -> Picture:
    jets = f"{'training' if split == 'train' else 'test'} jets"
    number = "" if found.pictured_jets is None else f"{found.pictured_jets} "
    caption = f"Mean over {number}{jets}, each pixel where it was hidden."
    return picture_of(f"{slug(run.name)}_mean_{split}", reconstruction_figures.mean_pictures(found), caption, caption)


def unit_notes(found: Reconstruction | None) -> list[str]:
    """Notes on what cannot be concluded because of the units."""
    if found is None:
        return []
    pairs: Sequence[tuple[str, str]] = list(zip(found.channels, found.units, strict=True))
    lost = [(c, u) for c, u in pairs if any(e in c.lower() for e in _ENERGY_CHANNELS) and "gev" not in u.lower()]
    if not lost:
        return []
    names = ", ".join(f"{channel} in “{unit}”" for channel, unit in lost)
    return [f"Not in GeV: {names}. Images scaled per sample: absolute GeV is lost, so closure in GeV is not defined."]

"""Data commands: simulate jets, convert files into a dataset, verify it, look at it.

python jobs/data.py simulate jets.h5 --process top_vs_qcd --jets 1000 --pile-up 20 --seed 1
python jobs/data.py convert jets.h5 --out data/top
python jobs/data.py verify data/top
python jobs/data.py stats data/top --pictures pictures
"""

import argparse
import signal
import sys
from pathlib import Path

# Nothing heavy here: --help must answer at once. The commands import what they need.
from jetmae.errors import JetmaeError, exit_with_one_line


def main() -> int:
    arguments = parser().parse_args()
    # A terminated command must run its `finally`s: that is what removes half-written output.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return arguments.command(arguments) or 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_simulate(commands.add_parser("simulate", help="make jet images with Pythia 8"))
    _add_convert(commands.add_parser("convert", help="make a dataset from files of jet images"))
    _add_verify(commands.add_parser("verify", help="check all bytes and values of a dataset, and what it should hold"))
    _add_stats(commands.add_parser("stats", help="describe a dataset: jets, occupancies, value ranges, sizes"))
    return parser


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", type=Path, nargs="?", metavar="OUT.h5")
    parser.add_argument("--output", type=Path, dest="output_option", metavar="OUT.h5", help="the same as OUT.h5")
    parser.add_argument("--process", choices=("top_vs_qcd", "quark_vs_gluon"), default="top_vs_qcd")
    parser.add_argument("--jets", type=int, default=1000, help="number of jets, half of each class (%(default)s)")
    parser.add_argument("--pile-up", type=float, default=20.0, help="mean collisions added per jet (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same jets (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="worker processes; do not change the result")
    parser.add_argument("--unlabelled", action="store_true", help="write no labels")
    parser.add_argument("--first-block", type=int, default=0, help="where to begin in the seed's sequence of jets")
    parser.add_argument("--gzip-level", type=int, default=6, help="1 to 9 (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument("--sample", type=Path, metavar="FOLDER", help="make the shipped sample files in FOLDER")
    parser.set_defaults(command=_simulate)


def _simulate(arguments: argparse.Namespace) -> None:
    outputs = [path for path in (arguments.output, arguments.output_option, arguments.sample) if path is not None]
    if len(outputs) != 1:
        raise JetmaeError(
            f"simulate: {len(outputs)} outputs, expected one: OUT.h5 or --sample FOLDER; give one of them"
        )
    from jetmae.data.simulation.simulate import simulate, simulate_sample

    if arguments.sample is not None:
        simulate_sample(arguments.sample, workers=arguments.workers, overwrite=arguments.overwrite)
        print(f"sample written to {arguments.sample}")
        return
    simulate(
        outputs[0],
        process=arguments.process,
        num_jets=arguments.jets,
        seed=arguments.seed,
        pile_up=arguments.pile_up,
        labelled=not arguments.unlabelled,
        workers=arguments.workers,
        first_block=arguments.first_block,
        gzip_level=arguments.gzip_level,
        overwrite=arguments.overwrite,
    )
    print(f"{arguments.jets} jets in {outputs[0]}")
    print(f"next: python jobs/data.py convert {outputs[0]} --out DIR")


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE",
        help="FILE: its own splits if it has some, else divided into train, validation, test; SPLIT=FILE: all of it to"
        " that split; unlabelled=FILE: without labels, divided",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="dataset to make; a link is followed")
    parser.add_argument("--overwrite", action="store_true", help="replace the dataset at --out when all is done")
    parser.add_argument("--verify", action="store_true", help="afterwards compare every pixel with the sources")
    parser.add_argument("--fractions", type=_numbers, default=(0.8, 0.1, 0.1), metavar="TRAIN,VALIDATION,TEST")
    parser.add_argument("--seed", type=int, default=0, help="of the division into splits (%(default)s)")
    parser.add_argument("--tower-size", type=int, default=5, help="pixels per tower side; 0: no towers (%(default)s)")
    parser.add_argument("--jets-per-shard", type=int, default=16384, help="(%(default)s)")
    parser.add_argument("--drop-constant", action="store_true", help="leave out images that are one value throughout")
    parser.add_argument("--allow-rounding", action="store_true", help="accept values that float32 rounds, also to 0")
    parser.add_argument("--allow-unwritten", action="store_true", help="take rows that nobody wrote as they read")
    parser.add_argument("--hash-sources", action="store_true", help="record the SHA-256 of the sources")
    layout = parser.add_argument_group("layout", "what to take the sources for, where a look does not tell")
    layout.add_argument("--image-key", metavar="NAME", help="image array or column")
    layout.add_argument("--label-key", metavar="NAME", help="label array or column: numbers, words or one-hot")
    layout.add_argument("--layout", choices=("channels-last", "channels-first"))
    layout.add_argument("--label-column", choices=("first", "last"), help="of a table of labels, masses and pT")
    layout.add_argument("--image-shape", type=_shape, metavar="C,H,W", help="of flat images")
    layout.add_argument("--channels", type=_words, metavar="NAME,...", help="channel names in the source's order")
    layout.add_argument("--units", type=_words, metavar="UNIT,...", help="unit of each channel")
    layout.add_argument(
        "--classes",
        type=_words,
        metavar="NAME,...",
        help="class names in the order of the label numbers, or the words that the labels are; the signal last",
    )
    parser.set_defaults(command=_convert)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(word) for word in text.split(","))


def _shape(text: str) -> tuple[int, ...]:
    sizes = tuple(int(word) for word in text.split(","))
    if len(sizes) != 3 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not C,H,W")
    return sizes


def _convert(arguments: argparse.Namespace) -> None:
    from jetmae.data.convert.convert import ConvertOptions, convert
    from jetmae.data.convert.source import SourceOptions

    values = vars(arguments)
    result = convert(
        arguments.sources,
        arguments.out,
        source_options=SourceOptions(**{name: values[name] for name in SourceOptions.__dataclass_fields__}),
        options=ConvertOptions(**{name: values[name] for name in ConvertOptions.__dataclass_fields__}),
        overwrite=arguments.overwrite,
        verify=arguments.verify,
    )
    _print_conversion(arguments.out, result, dropped=arguments.drop_constant, rounded=arguments.allow_rounding)


def _print_conversion(folder: Path, result, *, dropped: bool, rounded: bool) -> None:
    manifest = result.manifest
    for planned in result.plan:
        print(f"{planned.part.path}: {planned.part.layout}")
    for note in result.notes:
        print(f"note: {note}")
    print(f"dataset {folder}: {', '.join(f'{split} {manifest.jets(split):,}' for split in manifest.splits)} jets")
    stored_bytes = sum(entry.bytes for entries in manifest.splits.values() for entry in entries)
    print(f"{stored_bytes / max(result.jets, 1) / 1000:.1f} KB per jet")
    if result.constant_images:
        print(f"{result.constant_images} constant images {'dropped' if dropped else 'kept (see --drop-constant)'}")
    if result.jets_compared is not None:
        how = "rounded to float32" if rounded else "bit for bit"
        print(f"{result.jets_compared:,} jets compared with the sources {how}: equal")
    print(f"next: python jobs/launch.py chain data.path={folder}")


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Read a whole dataset and print a line for each problem; exit code 65 if there is one. Looked for: a manifest"
        " that changed; shards missing, not listed, exchanged, or of another size; bytes that differ from those written"
        " (SHA-256); values that are NaN, infinite or outside their image; labels of no class; jets that occur twice."
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.set_defaults(command=_verify)


def _verify(arguments: argparse.Namespace) -> int:
    from jetmae.data.inspect import verify_dataset
    from jetmae.errors import EXIT_BAD_DATA

    problems = verify_dataset(arguments.folder)
    for problem in problems:
        print(problem)
    print(f"{arguments.folder}: {f'{len(problems)} problems' if problems else 'no problems found'}")
    return EXIT_BAD_DATA if problems else 0


def _add_stats(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write example pictures of every channel there")
    parser.set_defaults(command=_stats)


def _stats(arguments: argparse.Namespace) -> None:
    from jetmae.data.inspect import dataset_statistics

    dataset_statistics(arguments.folder, arguments.pictures)


if __name__ == "__main__":
    exit_with_one_line(main)

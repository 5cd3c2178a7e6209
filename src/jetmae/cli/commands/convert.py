"""data convert: a dataset from files of jet images."""

import argparse
from pathlib import Path

from jetmae.command_line import typed
from jetmae.data.convert.convert import Conversion, ConvertOptions, convert
from jetmae.data.convert.source import SourceOptions


def run(arguments: argparse.Namespace) -> None:
    """Convert, and say what was found and made."""
    values = vars(arguments)
    result = convert(
        arguments.sources,
        arguments.out,
        source_options=SourceOptions(**{name: values[name] for name in SourceOptions.__dataclass_fields__}),
        options=ConvertOptions(**{name: values[name] for name in ConvertOptions.__dataclass_fields__}),
        overwrite=arguments.overwrite,
        verify=arguments.verify,
    )
    print_conversion(arguments.out, result, dropped=arguments.drop_constant, rounded=arguments.allow_rounding)


def print_conversion(folder: Path, result: Conversion, *, dropped: bool, rounded: bool) -> None:
    """What the sources were taken for, and what the dataset holds."""
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
    print(f"next: {typed('chain', f'data.path={folder}')}")

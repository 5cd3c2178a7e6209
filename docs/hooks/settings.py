"""Tables of all settings and presets, made from the code when the site is built.

The page docs/settings.md holds markers; each is replaced by a table. A setting is written down once, in
src/jetmae/config.py, and a preset's command, cost and result once, at the head of its file.
"""

import re
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from jetmae import config

PROJECT = Path(__file__).resolve().parents[2]
PRESETS = PROJECT / "src" / "jetmae" / "presets"
EXPECTATIONS = ("Command", "Cost", "Result")
SIZES = ("small", "seed")
WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false"}
PLURALS = {
    float: "numbers",
    config.Mask: "masks, each with `kind`, `ratio`, `probability`",
    tuple[str, ...]: "lists of names",
}
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """MkDocs calls this for each page before it renders it."""
    return filled(markdown) if page.file.src_uri == "settings.md" else markdown


def filled(markdown: str) -> str:
    """The page with a table in the place of each marker."""
    tables = {
        "settings": settings_tables,
        "expectations": expectations_table,
        "small": lambda: presets_table("small"),
        "seed": lambda: presets_table("seed"),
        "clusters": clusters_table,
    }
    return re.sub(r"<!-- table: (\w+) -->", lambda match: tables[match[1]](), markdown)


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; `|` in a cell would end it."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


# -- settings ----------------------------------------------------------------------------------------------------------


def settings_tables() -> str:
    """One table for the settings that stand in no section, and one for each section."""
    parts = [section_table("Whole experiment", "What it is, and where it begins.", config.Experiment, "")]
    for name, info in config.Experiment.model_fields.items():
        if section := section_of(info.annotation):
            meaning = " ".join((section.__doc__ or "").split())
            parts.append(section_table(f"`{name}`", meaning, section, f"{name}."))
    return "\n\n".join(parts)


def section_table(title: str, meaning: str, section: type[config.Section], prefix: str) -> str:
    rows = [
        (f"`{prefix}{name}`", type_of(info), default_of(info), info.description or "", changes(prefix + name))
        for name, info in section.model_fields.items()
        if section_of(info.annotation) is None
    ]
    header = ("setting", "type", "default", "meaning", "when a run goes on")
    return f"### {title}\n\n{meaning}\n\n{table(header, rows)}"


def section_of(annotation: Any) -> type[config.Section] | None:
    kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    return next((kind for kind in kinds if issubclass(kind, config.Section)), None)


def type_of(info: Any) -> str:
    """`whole number ≥ 1, or null`."""
    bounds = [f"{BOUNDS[name]} {getattr(rule, name)}" for rule in info.metadata for name in BOUNDS if has(rule, name)]
    kinds = [kind for kind in alternatives(info.annotation) if kind is not type(None)]
    text = " ".join([" or ".join(in_words(kind) for kind in kinds), ", ".join(bounds)]).strip()
    return text + (", or null" if len(kinds) < len(alternatives(info.annotation)) else "")


def has(rule: Any, name: str) -> bool:
    return getattr(rule, name, None) is not None


def alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) is tuple:
        return (
            f"list of {PLURALS[get_args(kind)[0]]}" if Ellipsis in get_args(kind) else f"{len(get_args(kind))} numbers"
        )
    if get_origin(kind) is dict:
        return f"numbers by name: {in_words(get_args(kind)[0])}"
    return WORDS[kind]


def default_of(info: Any) -> str:
    return "must be given" if info.is_required() else in_yaml(info.default)


def in_yaml(value: object) -> str:
    """A value as it is typed on the command line."""
    if value is None:
        return "`null`"
    value = list(value) if isinstance(value, tuple) else value
    return f"`{yaml.safe_dump(value, default_flow_style=True).removesuffix('...' + chr(10)).strip()}`"


def changes(key: str) -> str:
    return "may change" if key in config.FREE_ON_RESUME else "stays"


# -- presets -----------------------------------------------------------------------------------------------------------


def expectations_table() -> str:
    """What the head of each preset says."""
    rows = []
    for task in config.TASKS:
        for size in SIZES:
            said = expectations(PRESETS / task / f"{size}.yaml")
            rows.append((f"`{task}/{size}`", f"`{said['Command']}`", said["Cost"], said["Result"]))
    return table(("preset", "command", "cost", "result"), rows)


def expectations(path: Path) -> dict[str, str]:
    """`Command`, `Cost` and `Result` in the comment at the head of a preset; each may go on in indented lines."""
    said: dict[str, str] = {}
    name = None
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        begin = re.match(rf"# ({'|'.join(EXPECTATIONS)}): +(.*)", line)
        if begin:
            name = begin[1]
            said[name] = begin[2]
        elif name and line.startswith("#    "):
            said[name] += " " + line[1:].strip()
        else:
            name = None
    return said


def presets_table(size: str) -> str:
    """The presets of one size side by side: every setting in which some preset differs from the default."""
    columns = {task: flat(preset(task, size).model_dump(mode="json")) for task in config.TASKS}
    rows = [(f"`{key}`", *(in_yaml(column[key]) if key in column else "" for column in columns.values()))
            for key in changed_keys()]  # fmt: skip
    return table(("setting", *columns), rows)


def changed_keys() -> list[str]:
    presets = [flat(preset(task, size).model_dump(mode="json")) for size in SIZES for task in config.TASKS]
    return [
        key for key, default in all_keys().items() if any(column.get(key, default) != default for column in presets)
    ]


def preset(task: str, size: str) -> config.Experiment:
    """A preset as it is used; fine-tuning and probing need a start, which is not shown."""
    start = [] if task in ("pretrain", "scratch") else ["init_from=RUN"]
    return config.load_experiment(task, size, start)


def flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys; a section that the task does not have is left out."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def all_keys() -> dict[str, Any]:
    """Every setting of the sections, in order, with its default; lists as JSON has them."""
    return {
        f"{name}.{key}": list(field.default) if isinstance(field.default, tuple) else field.default
        for name, info in config.Experiment.model_fields.items()
        if (section := section_of(info.annotation))
        for key, field in section.model_fields.items()
    }


def clusters_table() -> str:
    """The sites of `--cluster` side by side."""
    sites = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((PRESETS / "cluster").glob("*.yaml"))}
    keys = dict.fromkeys(key for content in sites.values() for key in content)
    rows = [(f"`{key}`", *(in_yaml(content[key]) if key in content else "" for content in sites.values()))
            for key in keys]  # fmt: skip
    return table(("field", *(f"`{name}`" for name in sites)), rows)

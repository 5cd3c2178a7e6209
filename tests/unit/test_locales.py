"""Programs speak in every locale, and what was written in one is read in all others."""

import ast
import io
import os
import subprocess
import sys

import pytest

from jetmae import streams
from tests.conftest import PROJECT, TINY, TINY_DECODER, launch, succeed, type_command

NOT_SHOWN = ("--restore-s", "1", "--requeue-s", "1", "--lost-s", "1")  # by a run that never stopped
PLAIN_C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LOCALES = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "C": PLAIN_C,
    "one that is not installed": {**PLAIN_C, "LC_ALL": "en_US.ISO-8859-1"},
    "strict": {**PLAIN_C, "PYTHONIOENCODING": "ascii:strict"},
}


def test_what_a_stream_cannot_take_gets_a_plain_twin():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=streams.PLAIN_TWINS)
    stream.write("0.5 ± 0.1 … \u4e2d \udcff █")
    stream.flush()
    assert stream.buffer.getvalue() == b"0.5 +- 0.1 ... ? ? #"


def test_a_stream_that_can_take_it_is_left_alone():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", errors=streams.PLAIN_TWINS)
    stream.write("± …")
    stream.flush()
    assert stream.buffer.getvalue() == b"\xb1 ..."


TEXT_FILES = {"read_text", "write_text", "open", "fdopen"}
NO_FILES = {"os.open", "webbrowser.open"}


def test_every_file_of_text_is_opened_as_utf_8():
    without = [
        f"{path.relative_to(PROJECT)}:{call.lineno}"
        for path in sorted((PROJECT / "src").rglob("*.py"))
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and opens_text(call) and not says_encoding(call)
    ]
    # A descriptor for other programs, and JSON that is ASCII.
    elsewhere = ("src/jetmae/launch/local_processes.py", "src/jetmae/runtime/rendezvous.py")
    assert [place for place in without if not place.startswith(elsewhere)] == []


def opens_text(call: ast.Call) -> bool:
    """Whether a call reads or writes a file as text; a mode with b does not."""
    name = ast.unparse(call.func)
    if name.rpartition(".")[2] not in TEXT_FILES or name in NO_FILES:
        return False
    if name.endswith(("read_text", "write_text")):
        return not (isinstance(call.func, ast.Name))  # files.write_text is ours, and says it
    modes = [word.value for word in call.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
    return bool(modes) and "b" not in modes[-1] and set(modes[-1]) <= set("rwax+t")


def says_encoding(call: ast.Call) -> bool:
    return any(keyword.arg == "encoding" for keyword in call.keywords)


@pytest.mark.parametrize(("line", "found"), [("p.read_text()", True), ("p.open('a')", True),
                                             ("p.open('rb')", False), ("write_text(p, 'x')", False),
                                             ("os.open(p, os.O_RDONLY)", False)])  # fmt: skip
def test_the_search_itself_finds_such_a_file(line, found):
    call = next(node for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Call))
    assert opens_text(call) == found


@pytest.mark.parametrize("environment", LOCALES.values(), ids=LOCALES)
def test_names_of_files_are_utf_8_and_words_are_the_locales(tmp_path, environment):
    """A file is found by the name that a record has in UTF-8, and saying so does not end the program."""
    (tmp_path / "Größe").touch()
    code = (
        "import sys, pathlib\nfrom jetmae.errors import exit_with_one_line\n"
        "def main():\n    print((pathlib.Path(sys.argv[1]) / 'Gr\\u00f6\\u00dfe').exists(), '\\u00b1 \\u2026')\n"
        "exit_with_one_line(main)"
    )
    finished = succeed(run_code(code, tmp_path, environment=environment))
    assert finished.stdout in ("True +- ...\n", "True \xb1 ...\n")


def run_code(code: str, *words: object, environment: dict[str, str]) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, words)]
    base = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(PROJECT / "src")}
    return subprocess.run(command, capture_output=True, encoding="latin-1", env={**base, **environment}, check=False)


@pytest.fixture(scope="module")
def trained(sample, tmp_path_factory):
    """A run that was trained in a C locale, with data in a folder whose name ASCII lacks."""
    folder = tmp_path_factory.mktemp("locale") / "Größe"
    folder.mkdir()
    (folder / "data").symlink_to(sample)
    words = (*TINY, *TINY_DECODER, "optim.batch_size=8", "optim.steps=2", "optim.warmup_epochs=0")
    runs = folder / "runs"
    succeed(launch("pretrain", *words, f"data.path={folder}/data", "--name", "one", runs=runs, **LOCALES["strict"]))
    with (runs / "one" / "config.yaml").open("a", encoding="utf-8") as config:
        config.write("# Größe\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("environment", LOCALES.values(), ids=LOCALES)
def test_what_looks_at_a_run_speaks_in_every_locale(trained, environment):
    runs = trained / "runs"
    for words in (("list",), ("status", "one"), ("goodput", "one", *NOT_SHOWN), ("logs", "one")):
        command = [sys.executable, PROJECT / "jobs" / "runs.py", "--runs-dir", runs, *words]
        finished = subprocess.run(command, capture_output=True, env={**os.environ, **environment}, check=False)
        assert (finished.returncode, finished.stderr) == (0, b"")
        assert finished.stdout


@pytest.mark.slow
def test_data_and_reports_speak_in_a_c_locale(trained):
    succeed(type_command("data.py", "stats", trained / "data", **LOCALES["strict"]))
    succeed(type_command("runs.py", "--runs-dir", trained / "runs", "report", "one", **LOCALES["strict"]))
    again = launch("pretrain", *TINY, f"data.path={trained}/data", "--name", "other", "--dry-run", runs=trained / "r")
    assert "data:" in succeed(again).stdout

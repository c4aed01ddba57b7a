"""The lessons, run from top to bottom without a person, show what their committed outputs show.

Numbers (pids, times, measurements) and the order of lines differ from run to run and are left out
of the comparison. A cell whose very lines differ from run to run has the tag `varies`: of it only
the kind of output is compared. What a lesson is about is asked for by name below.
"""

import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NAMES = [
    "01-procesos",
    "02-primeros-procesos",
    "03-zombis",
    "04-dos-hijos",
    "05-pipe-interactivo",
    "06-pipe-bidireccional",
]
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def path_of(name: str) -> Path:
    return ROOT / "notebooks" / f"{name}.ipynb"


@pytest.fixture(scope="module")
def runs():
    """The notebooks as they come out of a fresh run; each is run once."""
    done = {}

    def run(name: str):
        if name not in done:
            notebook = nbformat.read(path_of(name), as_version=4)
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    cell.outputs, cell.execution_count = [], None
            client = NotebookClient(notebook, kernel_name="forklab", timeout=120, startup_timeout=120)
            done[name] = client.execute()
        return done[name]

    return run


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cell) -> str:
    """All that a cell shows, as text."""
    parts = []
    for output in cell.outputs:
        if output.output_type == "stream":
            parts.append(output.text)
        elif output.output_type == "error":
            parts.append(f"{output.ename}: {output.evalue}\n")
        else:
            parts.append(output.data.get("text/plain", "") + "\n")
    return COLOUR.sub("", "".join(parts))


def all_text(notebook) -> str:
    return "".join(text_of(cell) for cell in code_cells(notebook))


def normalised(text: str) -> str:
    """A text without what differs from run to run: numbers, and the width of columns."""
    text = re.sub(r"\d+([.,:]\d+)*", "N", text)
    return re.sub(r"[ \t]+", " ", text)


def same(shown: str, committed: str) -> bool:
    """Whether two outputs hold the same lines in any order; or, torn, the same letters."""
    shown, committed = normalised(shown), normalised(committed)
    lines = [Counter(line.strip() for line in text.splitlines() if line.strip()) for text in (shown, committed)]
    letters = [Counter(re.sub(r"[\sN]", "", text)) for text in (shown, committed)]
    return lines[0] == lines[1] or letters[0] == letters[1]


def kinds(cell) -> set:
    return {output.output_type for output in cell.outputs}


def test_all_lessons_are_there():
    assert [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_notebook_is_a_real_run(name):
    notebook = nbformat.read(path_of(name), as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "forklab"
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "run from top to bottom, once"
    assert all_text(notebook).strip()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", NAMES)
def test_the_lesson_shows_what_is_committed(name, runs):
    committed = code_cells(nbformat.read(path_of(name), as_version=4))
    shown = code_cells(runs(name))
    assert len(shown) == len(committed)
    for number, (now, then) in enumerate(zip(shown, committed, strict=True), 1):
        place = f"{name}, code cell {number}:\n{now.source}\n--- shown\n{text_of(now)}\n--- committed\n{text_of(then)}"
        assert kinds(now) == kinds(then), place
        if "varies" not in now.metadata.get("tags", []):
            assert same(text_of(now), text_of(then)), place


def test_lesson_1_measures(runs):
    text = all_text(runs("01-procesos"))
    assert re.search(r"CPU\(s\)", text), "lscpu"
    assert re.search(r"%?Cpu", text), "top"
    assert re.search(r"\d+([.,]\d+)?\s*(µs|us|ms|s)\b", text), "a time"
    assert re.search(r"\d+([.,]\d+)?\s*(kB|KB|KiB|MB|MiB)\b", text), "an amount of memory"


def test_lesson_2_has_five_workers(runs):
    """Some cell shows five lines that differ in their numbers alone."""
    for cell in code_cells(runs("02-primeros-procesos")):
        lines = Counter(normalised(line).strip() for line in text_of(cell).splitlines())
        if 5 in lines.values():
            return
    pytest.fail(all_text(runs("02-primeros-procesos")))


def test_lesson_3_shows_the_zombie_and_reaps_it(runs):
    cells = [text_of(cell) for cell in code_cells(runs("03-zombis"))]
    trees = [text for text in cells if "<defunct>" in text]
    assert trees, "a zombie is seen"
    last = "".join(cells)
    tail = last[last.rindex("<defunct>") :]
    assert "PID" in tail or re.search(r"\n\s*\d+ ", tail), "and a tree without it comes after"


def test_lesson_4_is_interleaved(runs):
    text = all_text(runs("04-dos-hijos"))
    assert re.search(r"\bNo\b", text) and re.search(r"\bS[ií]\b", text), "one child has ended, one is alive"
    assert "SIGTERM" in text and "SIGKILL" in text, "what the exit status says after each"


def test_lesson_5_answers_in_upper_case(runs):
    text = all_text(runs("05-pipe-interactivo"))
    answers = re.findall(r"H: (.*)", text)
    assert len(answers) >= 2, text
    assert all(answer == answer.upper() for answer in answers), answers


def test_lesson_6_talks_both_ways(runs):
    text = all_text(runs("06-pipe-bidireccional"))
    assert re.search(r"P: .*42.*hello", text), text
    assert re.search(r"^H: ", text, re.MULTILINE), text

"""The lessons, run from top to bottom without a person, show what their committed outputs show.

Numbers (pids, times, measurements) and the order of lines differ from run to run and are left out
of the comparison. A cell whose very lines differ from run to run has the tag `varies`: of it only
the kind of output is compared. What a lesson is about is asked for by name below.
"""

import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

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
    "07-observar",
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
    """A text without what differs from run to run: numbers, the width of columns, who has a processor in ps's STAT."""
    text = re.sub(r"\d+([.,:]\d+)*", "N", text)
    text = re.sub(r"\b[RS](?=s?\+ )", "R/S", text)
    return re.sub(r"[ \t]+", " ", text)


def same(shown: str, committed: str) -> bool:
    """Whether two outputs hold the same lines in any order; or, torn, the same letters."""
    shown, committed = normalised(shown), normalised(committed)
    lines = [Counter(line.strip() for line in text.splitlines() if line.strip()) for text in (shown, committed)]
    letters = [Counter(re.sub(r"[\sN]", "", text)) for text in (shown, committed)]
    return lines[0] == lines[1] or letters[0] == letters[1]


def pictures(cell) -> list:
    """The HTML that a cell shows."""
    return [output.data["text/html"] for output in cell.outputs if "text/html" in output.get("data", {})]


def using(notebook, magic: str) -> list:
    """The code cells that begin with a magic."""
    return [cell for cell in code_cells(notebook) if cell.source.split(None, 1)[:1] == [magic]]


def lanes(cell) -> int:
    """How many lanes the only timeline of a cell has."""
    (html,) = pictures(cell)
    svg = ElementTree.fromstring(re.search(r"<svg.*</svg>", html, re.DOTALL)[0])
    return sum(element.get("class") == "fl-lane" for element in svg.iter())


class Counted:
    """What a repeated cell shows: how many runs, how many of them for each order, and how many ended otherwise."""

    def __init__(self, cell):
        self.text = text_of(cell)
        assert "forklab-orders" in pictures(cell)[0], self.text
        self.runs, self.distinct = map(int, re.search(r"(\d+) runs, (\d+) (?:different )?order", self.text).groups())
        self.counts = [int(count) for count in re.findall(r"^ *(\d+) +[\d.]+ % ", self.text, re.MULTILINE)]
        different = re.search(r"^(\d+) runs? ended differently", self.text, re.MULTILINE)
        self.different = int(different[1]) if different else 0
        # Rare orders have no bar of their own: how many there are, and how often each was seen at least and at most.
        rest = re.search(r"(\d+) more, seen (\d+)(?: to (\d+))? times? each", self.text)
        self.rest = [int(number or rest[2]) for number in rest.groups()] if rest else [0, 0, 0]


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


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", ["02-primeros-procesos", "04-dos-hijos", "07-observar"])
def test_every_run_is_counted_once(name, runs):
    repeated = using(runs(name), "%%repeat")
    assert len(repeated) >= 3
    for cell in repeated:
        counted = Counted(cell)
        assert counted.runs == int(cell.source.split()[1]), counted.text
        more, least, most = counted.rest
        assert counted.distinct == len(counted.counts) + more, counted.text
        counts = sum(counted.counts) + counted.different
        assert counts + more * least <= counted.runs <= counts + more * most, counted.text


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


def test_lesson_2_has_fewer_orders_on_one_processor(runs):
    free, one, _perturbed = map(Counted, using(runs("02-primeros-procesos"), "%%repeat"))
    assert one.distinct < free.distinct <= 120, f"{free.text}\n{one.text}"


def test_lesson_3_draws_both_zombies(runs):
    (cell,) = using(runs("03-zombis"), "%%trace")
    assert lanes(cell) == 3, "the parent and two children"
    assert pictures(cell)[0].count('class="fl-zombie"') >= 2
    assert re.search(r"^C1 .* exit 0 +\d+ ms +P\b", text_of(cell), re.MULTILINE), text_of(cell)
    assert re.search(r"^C2 .* SIGKILL +\d+ ms +P\b", text_of(cell), re.MULTILINE), text_of(cell)


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


def test_lesson_4_has_as_many_orders_as_there_can_be(runs):
    lines, torn, whole = map(Counted, using(runs("04-dos-hijos"), "%%repeat"))
    assert 2 <= lines.distinct <= 6, "three lines of three processes"
    assert 2 < torn.distinct <= 20, "three pieces and three pieces"
    assert 1 <= whole.distinct <= 2, "one and the other"


@pytest.mark.parametrize(
    ("name", "parent", "child"), [("05-pipe-interactivo", "padre: ", "hijo: "), ("06-pipe-bidireccional", "P: ", "H: ")]
)
def test_a_conversation_has_two_lanes(name, parent, child, runs):
    (cell,) = using(runs(name), "%%trace")
    assert lanes(cell) == 2
    drawn = text_of(cell)
    for who, mark in [("P", parent), ("C1", child)]:
        assert re.search(rf"{who} +writes “{mark}", drawn), drawn
        assert not re.search(rf"{who} +writes “(?!{mark})", drawn), f"each line is its writer's:\n{drawn}"


def test_lesson_5_answers_in_upper_case(runs):
    text = all_text(runs("05-pipe-interactivo"))
    answers = re.findall(r"H: (.*)", text)
    assert len(answers) >= 2, text
    assert all(answer == answer.upper() for answer in answers), answers


def test_lesson_6_talks_both_ways(runs):
    text = all_text(runs("06-pipe-bidireccional"))
    assert re.search(r"P: .*42.*hello", text), text
    assert re.search(r"^H: ", text, re.MULTILINE), text


def test_lesson_7_draws_every_process(runs):
    healthy, orphan, leak, twice = using(runs("07-observar"), "%%trace")
    assert [lanes(cell) for cell in (healthy, orphan, leak, twice)] == [3, 3, 11, 3]
    assert "forklab-record" in pictures(healthy)[0]
    for cell in (orphan, twice):
        assert re.search(r"C2 +is an orphan, adopted by pid \d+", text_of(cell)), text_of(cell)
    assert "becomes sleep 0.3" in text_of(twice)


def test_lesson_7_loses_updates_until_there_is_a_lock(runs):
    free, _one, locked, _hanging, _cured = map(Counted, using(runs("07-observar"), "%%repeat"))
    assert free.distinct >= 2, f"some update is lost:\n{free.text}"
    assert locked.distinct == 1 and "saldo final: 4" in locked.text, locked.text


def test_lesson_7_finds_the_deadlock_and_cures_it(runs):
    notebook = runs("07-observar")
    _free, _one, _locked, hanging, cured = map(Counted, using(notebook, "%%repeat"))
    assert hanging.different > 0 and f"{hanging.different} × the cell timed out" in hanging.text, hanging.text
    assert re.search(r"C1: tengo A\n.*C2: tengo B|C2: tengo B\n.*C1: tengo A", hanging.text), hanging.text
    assert cured.different == 0, cured.text
    assert f"{hanging.different} veces de {hanging.runs} se han colgado" in all_text(notebook)


def test_lesson_7_counts_in_rust(runs):
    text = all_text(runs("07-observar"))
    assert "10 creados, 4 recogidos, 6 sin recoger" in text
    assert re.search(r"^C2: ha vivido .*, \d+ de ellos adoptado por «", text, re.MULTILINE), text
    told = re.findall(r"^ *(\d+) veces, saldo final: \d: se han perdido (\d)", text, re.MULTILINE)
    assert sum(int(count) for count, _lost in told) == 200, text
    assert sum(int(count) * int(lost) for count, lost in told) == int(re.search(r"perdido (\d+) euros", text)[1])

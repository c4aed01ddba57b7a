"""Lessons in a real JupyterLab, looked at and typed into in a real browser."""

import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("playwright")

from playwright.sync_api import sync_playwright  # noqa: E402

import lab  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
# For working on these tests without forklab: any kernel, and the notebooks of another folder.
NOTEBOOKS = Path(os.environ.get("FORKLAB_TEST_NOTEBOOKS", ROOT / "notebooks"))
LINES = ["hola mundo", "segunda línea", "end"]
PICTURES = os.environ.get("FORKLAB_TEST_PICTURES")

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(lab.CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def playwright():
    """One for all: it does not run twice in a thread."""
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def page(playwright):
    with lab.browser_page(playwright) as opened:
        yield opened


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    work = tmp_path_factory.mktemp("lab")
    folder = work / "notebooks"
    shutil.copytree(NOTEBOOKS, folder)
    make_interactive(folder / "05-pipe-interactivo.ipynb")
    with lab.jupyter_lab(folder, work) as where:
        yield where


def make_interactive(path: Path):
    """Lesson 5 for a person: answers that stand in its cells are used only when nobody can be asked."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.startswith("%%stdin"):
            first, _, rest = cell.source.partition("\n")
            cell.source = "\n".join([first.replace(" --always", ""), rest])
    with open(path, "w", encoding="utf-8") as file:
        nbformat.write(notebook, file)


def take_picture(page, name: str):
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"{name}.png")


def test_lesson_4_is_interleaved_on_the_page(page, address):
    notebook = lab.Notebook(page, address, "04-dos-hijos.ipynb")
    notebook.clear()
    assert not "".join(notebook.outputs()).strip()
    notebook.run_all()
    notebook.wait_until_done(180)
    take_picture(page, "lesson-04")
    text = "\n".join(notebook.outputs())
    pids = set(re.findall(r"\b\d{2,7}\b", text))
    assert len(pids) >= 3, f"the parent and two children:\n{text}"
    assert re.search(r"\bNo\b", text) and re.search(r"\bS[ií]\b", text), text


def test_lesson_5_answers_what_is_typed(page, address):
    notebook = lab.Notebook(page, address, "05-pipe-interactivo.ipynb")
    notebook.clear()
    notebook.run_all()
    typed = 0
    # Each program of the lesson asks until it is told to end.
    while notebook.asks_or_is_done(120):
        notebook.answer(LINES[typed % len(LINES)])
        typed += 1
    take_picture(page, "lesson-05")
    text = "\n".join(notebook.outputs())
    assert typed >= len(LINES), text
    assert "H: HOLA MUNDO" in text, text
    assert "H: SEGUNDA LÍNEA" in text, text


TRACED = """%%trace
use forklab::Process;
let mut child = Process::new(|| println!("I am the child"));
child.start()?;
child.join()?;
println!("I am the parent");"""

REPEATED = """%%repeat 10
let mut child = forklab::Process::new(|| println!("child"));
child.start()?;
child.join()?;"""

# The least contrast, by WCAG 2, of a picture's texts with the panel behind them; and what they say.
CONTRAST = """svg => {
    const light = colour => {
        const [r, g, b] = colour.match(/[0-9.]+/g).map(part => part / 255);
        const linear = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
        return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    };
    const fill = element => light(getComputedStyle(element).fill);
    const panel = fill(svg.querySelector(".fl-panel"));
    // Those on a bar have that behind them.
    const texts = [...svg.querySelectorAll("text:not(.fl-tiny)")];
    const contrasts = texts.map(text => {
        const [most, least] = [fill(text), panel].sort((a, b) => b - a);
        return (most + 0.05) / (least + 0.05);
    });
    return {
        panel, least: Math.min(...contrasts), words: texts.map(text => text.textContent).join(" "),
        width: svg.getBoundingClientRect().width, fits: svg.getBoundingClientRect().right <= innerWidth,
    };
}"""


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_a_timeline_and_orders_are_read_in_both_themes(theme, playwright, tmp_path, monkeypatch):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    cells = [nbformat.v4.new_code_cell(source) for source in (TRACED, REPEATED)]
    metadata = {
        "kernelspec": {"name": "forklab", "display_name": "Rust (forklab)", "language": "rust"},
        "language_info": {"name": "rust"},
    }
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), folder / "observed.ipynb")
    monkeypatch.setitem(lab.SETTINGS, "apputils-extension/themes", {"theme": f"JupyterLab {theme}"})
    with lab.browser_page(playwright) as page:
        with lab.jupyter_lab(folder, tmp_path) as where:
            notebook = lab.Notebook(page, where, "observed.ipynb")
            notebook.clear()
            notebook.run_all()
            notebook.wait_until_done(180)
            take_picture(page, f"observed-{theme.lower()}")
            picture = notebook.panel.locator("svg.forklab-timeline").first.evaluate(CONTRAST)
            assert (picture["panel"] > 0.5) == (theme == "Light"), "the picture has the page's theme"
            assert picture["least"] >= 4.5, picture
            assert picture["width"] >= 480 and picture["fits"], picture
            for part in ["P", "C1", "I am the child", "exit 0"]:
                assert part in picture["words"], picture
            rows = notebook.panel.locator("table.forklab-processes tbody tr")
            assert rows.count() == 2
            orders = notebook.panel.locator(".forklab-orders")
            assert "10 runs, 1 order by lines" in orders.inner_text()
            assert notebook.panel.locator("progress").count() == 0, "the progress has made room for the orders"

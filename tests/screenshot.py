"""Makes the picture of the README: lesson 4, run in JupyterLab.

    screenshot.py PICTURE [NOTEBOOK]

Needs what tests/requirements.txt names, Chromium, and an installed forklab.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

import lab

ROOT = Path(__file__).resolve().parent.parent


def main(picture: Path, notebook: Path):
    with tempfile.TemporaryDirectory() as work, sync_playwright() as playwright:
        folder = Path(work) / "notebooks"
        folder.mkdir()
        shutil.copy(notebook, folder)
        with lab.jupyter_lab(folder, Path(work)) as address, lab.browser_page(playwright) as page:
            opened = lab.Notebook(page, address, notebook.name)
            opened.clear()
            opened.run_all()
            opened.wait_until_done(300)
            # The file browser shows one name; the lesson needs the room.
            page.keyboard.press("Control+b")
            page.locator("#jp-left-stack").wait_for(state="hidden")
            first = opened.panel.locator(".jp-CodeCell:has(.jp-OutputArea-output)").first
            first.scroll_into_view_if_needed()
            first.evaluate("cell => cell.scrollIntoView({ block: 'start' })")
            page.wait_for_function("() => document.fonts.status === 'loaded'")
            page.screenshot(path=picture)


if __name__ == "__main__":
    main(
        Path(sys.argv[1]).resolve(),
        Path(sys.argv[2]).resolve() if len(sys.argv) > 2 else ROOT / "notebooks/04-dos-hijos.ipynb",
    )

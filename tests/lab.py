"""A real JupyterLab on 127.0.0.1 and a real Chromium that looks at it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import TimeoutError

TOKEN = "of-these-tests-only"
START_LIMIT = 60
# Nothing here may talk to the outside: the page is all that is looked at.
CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    # Otherwise the page holds only those cells that are in view.
    "notebook-extension/tracker": {"windowingMode": "none"},
}
CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)


@contextmanager
def jupyter_lab(folder: Path, work: Path):
    """Runs JupyterLab on a folder. Gives its address, without a slash at the end."""
    runtime = work / "runtime"
    runtime.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "JUPYTER_RUNTIME_DIR": str(runtime),
        "JUPYTER_CONFIG_DIR": str(work / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(work / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(work / "workspaces"),
    }
    for name, values in SETTINGS.items():
        file = work / f"settings/@jupyterlab/{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    with open(work / "lab.log", "wb") as log:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyter", "lab", "--no-browser", "--ip=127.0.0.1", "--port=0"),
                *(f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}"),
                *(["--allow-root"] if os.geteuid() == 0 else []),
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield _address(server, runtime, work / "lab.log")
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _address(server: subprocess.Popen, runtime: Path, log: Path) -> str:
    """The address that the server writes into its runtime directory when it listens."""
    deadline = time.monotonic() + START_LIMIT
    file = runtime / f"jpserver-{server.pid}.json"
    while time.monotonic() < deadline and server.poll() is None:
        try:
            return json.loads(file.read_text())["url"].rstrip("/")
        except (OSError, ValueError):
            time.sleep(0.05)
    raise AssertionError(f"JupyterLab does not listen:\n{log.read_text()}")


@contextmanager
def browser_page(playwright, width: int = 1280, height: int = 900):
    """A page in a fresh Chromium."""
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
    try:
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(60_000)
        yield page
    finally:
        browser.close()


class Notebook:
    """A notebook that is open in JupyterLab."""

    def __init__(self, page, address: str, name: str):
        self.page = page
        page.goto(f"{address}/lab/tree/{name}?token={TOKEN}&reset")
        self.panel = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
        self.panel.wait_for()
        self.wait_for_kernel()

    def wait_for_kernel(self):
        """Waits until the kernel has started and has nothing to do."""
        self.panel.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for(timeout=120_000)

    def menu(self, name: str, item: str):
        """Chooses an item of a menu, as a person does."""
        self.page.get_by_role("menuitem", name=name, exact=True).click()
        self.page.locator(".lm-Menu-item:visible", has_text=item).first.click()

    def run_all(self):
        """Starts every cell. A page that has just been opened may still lose a menu's click; then again."""
        before = self.panel.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()
        for _ in range(10):
            self.menu("Run", "Run All Cells")
            try:
                self.page.wait_for_function(
                    """before => {
                        const panel = document.querySelector(".jp-NotebookPanel:not(.lm-mod-hidden)");
                        const prompts = [...panel.querySelectorAll(".jp-CodeCell .jp-InputPrompt")];
                        return prompts.some((prompt, at) => prompt.innerText !== before[at]);
                    }""",
                    arg=before,
                    timeout=5000,
                )
                return
            except TimeoutError:
                continue
        raise AssertionError("no cell begins")

    def clear(self):
        """Takes away all outputs, so that what is seen later is of this run. A click may be lost here, too."""
        for _ in range(10):
            self.menu("Edit", "Clear Outputs of All Cells")
            try:
                self.page.wait_for_function(
                    """() => {
                        const panel = document.querySelector(".jp-NotebookPanel:not(.lm-mod-hidden)");
                        return !panel.querySelector(".jp-CodeCell .jp-OutputArea-child");
                    }""",
                    timeout=5000,
                )
                return
            except TimeoutError:
                continue
        raise AssertionError("the outputs stay")

    @property
    def input_box(self):
        """The field in which a cell asks for a line."""
        return self.panel.locator(".jp-Stdin-input")

    def answer(self, line: str):
        """Types a line into the field that asks now, and waits until that field is gone."""
        self.input_box.wait_for()
        asking = self.input_box.element_handle()
        self.input_box.press_sequentially(line)
        self.input_box.press("Enter")
        self.page.wait_for_function("field => !field.isConnected", arg=asking)

    def outputs(self) -> list[str]:
        """What each code cell shows, as text."""
        cells = self.panel.locator(".jp-CodeCell").all()
        return ["".join(cell.locator(".jp-OutputArea-output").all_inner_texts()) for cell in cells]

    def wait_until_done(self, limit: float):
        """Waits until no cell waits or runs. A cell that asks for input is an error."""
        assert not self.asks_or_is_done(limit), "a cell asks for input"

    def asks_or_is_done(self, limit: float) -> bool:
        """Waits until a cell asks for input (true), or has run and none has a star (false).

        After an error the cells below it are aborted: they have neither."""
        return self.page.wait_for_function(
            """() => {
                const panel = document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden)');
                if (panel.querySelector('.jp-Stdin-input')) return 'asks';
                const prompts = [...panel.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(p => p.innerText);
                return prompts.some(p => /\\d/.test(p)) && !prompts.some(p => p.includes('*')) && 'done';
            }""",
            timeout=limit * 1000,
        ).json_value() == "asks"

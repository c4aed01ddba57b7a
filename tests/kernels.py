"""A notebook's side of a kernel: runs cells, collects what comes back, with deadlines.

Nothing here sleeps to be right: every wait is for a message or for a fact in /proc, until a deadline.
"""

import os
import queue
import time
from dataclasses import dataclass, field
from pathlib import Path

from jupyter_client.manager import start_new_kernel

KERNEL_NAME = os.environ.get("FORKLAB_TEST_KERNEL", "forklab")
START_LIMIT = 120
CELL_LIMIT = 90


@dataclass
class Result:
    """What one cell brought."""

    message_id: str
    reply: dict = field(default_factory=dict)
    outputs: list = field(default_factory=list)
    prompts: list = field(default_factory=list)

    def stream(self, name: str) -> str:
        """All text of one stream."""
        return "".join(c["text"] for kind, c in self.outputs if kind == "stream" and c["name"] == name)

    @property
    def stdout(self) -> str:
        return self.stream("stdout")

    @property
    def stderr(self) -> str:
        return self.stream("stderr")

    @property
    def errors(self) -> list:
        return [c for kind, c in self.outputs if kind == "error"]

    @property
    def value(self):
        """The plain text of the cell's result, or None."""
        texts = [c["data"]["text/plain"] for kind, c in self.outputs if kind == "execute_result"]
        assert len(texts) <= 1, texts
        return texts[0] if texts else None

    def good(self) -> "Result":
        """This result, which must be one without an error."""
        assert self.reply.get("status") == "ok", (self.reply, self.outputs)
        assert not self.errors, self.errors
        return self


class Kernel:
    """A started kernel and its client."""

    def __init__(self, name: str = KERNEL_NAME, **options):
        self.manager, self.client = start_new_kernel(startup_timeout=START_LIMIT, kernel_name=name, **options)

    def __enter__(self) -> "Kernel":
        return self

    def __exit__(self, *_):
        self.client.stop_channels()
        if self.manager.has_kernel:
            self.manager.shutdown_kernel(now=False)

    @property
    def pid(self) -> int:
        return self.manager.provisioner.process.pid

    def submit(self, code: str, **options) -> str:
        """Sends a cell and returns its message's id."""
        return self.client.execute(code, **options)

    def run(self, code: str, answers=(), limit: float = CELL_LIMIT, on_output=None, **options) -> Result:
        """Runs a cell to its idle and its reply. `answers` are typed where the cell asks for input;
        `on_output(kind, content)` is called as output arrives."""
        options.setdefault("allow_stdin", bool(answers))
        return self.collect(self.submit(code, **options), answers, limit, on_output)

    def collect(self, message_id: str, answers=(), limit: float = CELL_LIMIT, on_output=None) -> Result:
        """Collects what belongs to one cell until its idle and its reply are there."""
        result, answers = Result(message_id), list(answers)
        deadline = time.monotonic() + limit
        idle = False
        while not (idle and result.reply):
            assert time.monotonic() < deadline, f"no end in {limit} s; so far {result}"
            if not idle:
                idle = self._take_output(result, on_output)
            self._take_reply(result, wait=0.2 if idle else 0)
            self._answer(result, answers)
        return result

    def _take_output(self, result: Result, on_output) -> bool:
        try:
            message = self.client.get_iopub_msg(timeout=0.1)
        except queue.Empty:
            return False
        if message["parent_header"].get("msg_id") != result.message_id:
            return False
        kind, content = message["msg_type"], message["content"]
        if kind == "status":
            return content["execution_state"] == "idle"
        if kind != "execute_input":
            result.outputs.append((kind, content))
            if on_output:
                on_output(kind, content)
        return False

    def _take_reply(self, result: Result, wait: float):
        if result.reply:
            return
        try:
            message = self.client.get_shell_msg(timeout=wait)
        except queue.Empty:
            return
        if message["parent_header"].get("msg_id") == result.message_id:
            result.reply = message["content"]

    def _answer(self, result: Result, answers: list):
        try:
            message = self.client.get_stdin_msg(timeout=0)
        except queue.Empty:
            return
        result.prompts.append(message["content"]["prompt"])
        assert answers, f"asked once more than there are answers: {result.prompts}"
        self.client.input(answers.pop(0))


def processes() -> dict:
    """Pid, parent and words of the command of every process on the machine."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text()
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        parent = next(line for line in status.splitlines() if line.startswith("PPid:"))
        found[int(folder.name)] = (int(parent.split()[1]), [word.decode(errors="replace") for word in command])
    return found


def descendants(pid: int) -> list:
    """The pids below a process, as far as parents tell."""
    table, found, edge = processes(), [], [pid]
    while edge:
        edge = [child for child, (parent, _) in table.items() if parent in edge]
        found += edge
    return found


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def eventually(fact, limit: float = 10):
    """Waits until `fact()` is true, and returns it; fails at the deadline."""
    deadline = time.monotonic() + limit
    while True:
        value = fact()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {limit} s"
        time.sleep(0.01)

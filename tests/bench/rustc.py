"""The floor under an ordinary cell: the compiler alone on what the cell became.

While a cell is compiled, the compiler's process is watched for in /proc; its command line, directory
and environment are then used again, with nothing else at work, and timed: from cold, and beside the
incremental state that the compiler had found.
"""

import os
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import facts


@dataclass
class Compiler:
    """A compiler that has worked for a cell."""

    command: list
    directory: str
    environment: dict

    def incremental(self):
        """The directory of what it remembers, or None."""
        found = [word.split(b"=", 1)[1] for word in self.command if word.startswith((b"incremental=", b"-Cincremental="))]
        return found[0].decode() if found else None


def compilers(subject, code: str) -> list:
    """Runs a cell and returns each compiler that worked for it."""
    seen, strangers, stop = {}, set(), threading.Event()

    def look(pid: int):
        folder = Path(f"/proc/{pid}")
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")[:-1]
            if not command or os.path.basename(command[0]) != b"rustc" or b"--crate-type" not in b" ".join(command):
                return
            words = (folder / "environ").read_bytes().split(b"\0")
            environment = dict(word.split(b"=", 1) for word in words if b"=" in word)
            parent = facts.stat(pid)
            # A child that is about to become the linker looks like the compiler; and in the middle of an
            # exec, the environment is not all there.
            if parent and parent.parent not in seen and b"PATH" in environment:
                seen[pid] = Compiler(command, os.readlink(folder / "cwd"), environment)
        except OSError:
            pass

    def watch():
        while not stop.is_set():
            for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
                if pid in strangers or pid in seen:
                    continue
                # What carries the mark may still become the compiler; what does not never will.
                if subject.mark in facts.marks(pid):
                    look(pid)
                else:
                    strangers.add(pid)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        subject.good(code)
    finally:
        stop.set()
        watcher.join()
    return list(seen.values())


def alone(compiler: Compiler, repeats: int, remembered: Path | None = None) -> list:
    """Seconds of the same compilation, `repeats` times, into a directory of its own. `remembered` is a
    copy of the incremental state from before the cell; without it there is none."""
    times = []
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        for number in range(repeats):
            out = scratch / str(number)
            out.mkdir()
            if remembered:
                shutil.copytree(remembered, out / "incremental")
            command = rewritten(compiler.command, out, remembered is not None)
            begun = time.monotonic()
            done = subprocess.run(
                command, cwd=compiler.directory, env=compiler.environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
            )
            times.append(time.monotonic() - begun)
            if done.returncode != 0:
                raise RuntimeError(done.stderr.decode(errors="replace")[-600:])
    return times


def rewritten(command: list, out: Path, remember: bool) -> list:
    """The command with everything that it writes below `out`."""
    words, rest = [], list(command)
    while rest:
        word = rest.pop(0)
        if word in (b"--out-dir", b"-o"):
            rest.pop(0)
            words += [word, os.fsencode(out / "out" if word == b"-o" else out)]
        elif word.startswith(b"-Cincremental=") or (word == b"-C" and rest and rest[0].startswith(b"incremental=")):
            if word == b"-C":
                rest.pop(0)
            if remember:
                words += [b"-C", b"incremental=" + os.fsencode(out / "incremental")]
        else:
            words.append(word)
    return words

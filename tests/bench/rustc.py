"""The floor under an ordinary cell: the compiler alone on what the cell became.

While a cell is compiled, the compiler's process is watched for in /proc; its command line, directory
and environment are then used again, with nothing else at work, and timed.
"""

import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import facts


def commands(subject, code: str) -> list:
    """Runs a cell and returns each compiler that worked for it: command line, directory, environment."""
    seen, stop = {}, threading.Event()

    def watch():
        while not stop.is_set():
            for pid in facts.marked(subject.mark):
                if pid in seen:
                    continue
                try:
                    folder = Path(f"/proc/{pid}")
                    command = (folder / "cmdline").read_bytes().split(b"\0")[:-1]
                    name = os.path.basename(command[0]) if command else b""
                    if name != b"rustc" or b"--crate-type" not in b" ".join(command):
                        continue
                    environment = dict(pair.split(b"=", 1) for pair in (folder / "environ").read_bytes().split(b"\0") if b"=" in pair)
                    seen[pid] = (command, os.readlink(folder / "cwd"), environment)
                except OSError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        subject.good(code)
    finally:
        stop.set()
        watcher.join()
    return list(seen.values())


def alone(found: tuple, repeats: int) -> list:
    """Seconds of the same compilation, `repeats` times, into a directory of its own."""
    command, directory, environment = found
    times = []
    with tempfile.TemporaryDirectory() as scratch:
        # The sources are there until the next cell overwrites them.
        arguments, skip = [], False
        for index, word in enumerate(command):
            if skip:
                skip = False
            elif word == b"--out-dir":
                arguments += [word, scratch.encode()]
                skip = True
            elif word == b"-C" and command[index + 1].startswith(b"incremental"):
                skip = True
            elif word == b"-o":
                arguments += [word, os.path.join(scratch, "out").encode()]
                skip = True
            else:
                arguments.append(word)
        for _ in range(repeats):
            begun = time.monotonic()
            done = subprocess.run(arguments, cwd=directory, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
            times.append(time.monotonic() - begun)
            if done.returncode != 0:
                raise RuntimeError(done.stderr.decode(errors="replace")[-600:])
            for one in Path(scratch).iterdir():
                shutil.rmtree(one) if one.is_dir() else one.unlink()
    return times

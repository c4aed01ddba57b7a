"""Outside facts about a kernel's processes, from /proc: who they are, and what they hold.

For tests/bench and tests/soak. Processes are found by a mark in the environment that they were
started with, which a fork and an exec keep and an orphan does not lose.
"""

import os
import uuid
from pathlib import Path

MARK = "FORKLAB_OUTSIDE_MARK"


def new_mark() -> str:
    return uuid.uuid4().hex


def marks(pid: int) -> list:
    """The marks that a process carries; none when it is gone, or a zombie: those have no environment."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
    return [word.split(b"=", 1)[1].decode() for word in words if word.startswith(f"{MARK}=".encode())]


def marked(mark: str) -> list:
    """The processes that carry a mark."""
    return [pid for folder in Path("/proc").glob("[0-9]*") if mark in marks(pid := int(folder.name))]


def command(pid: int) -> list:
    """The words with which a process was started."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def forked_for(kernel: list) -> list:
    """The engines that a zygote has forked for a kernel with these processes. They carry the zygote's
    environment and no mark; they build below the kernel's directory."""
    commands = [words for pid in kernel if "--runtime-dir" in (words := command(pid))]
    directories = tuple(f"{words[words.index('--runtime-dir') + 1]}/" for words in commands)
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        if not directories or "--zygote" not in command(int(folder.name)):
            continue
        try:
            links = [os.readlink(link) for link in (folder / "fd").iterdir()]
        except OSError:
            continue
        if any(link.startswith(directories) for link in links):
            found.append(int(folder.name))
    return found


class Stat:
    """What /proc/PID/stat says."""

    def __init__(self, pid: int):
        name, rest = Path(f"/proc/{pid}/stat").read_text().split("(", 1)[1].rsplit(")", 1)
        words = rest.split()
        self.pid, self.name, self.state, self.parent = pid, name, words[0], int(words[1])
        self.session, self.terminal = int(words[3]), int(words[4])
        self.cpu = sum(int(word) for word in words[11:15]) / os.sysconf("SC_CLK_TCK")


def stat(pid: int):
    """A process's Stat, or None when it is gone."""
    try:
        return Stat(pid)
    except (OSError, IndexError, ValueError):
        return None


def table() -> dict:
    """Every process of the machine by its pid."""
    pids = (int(folder.name) for folder in Path("/proc").glob("[0-9]*"))
    return {pid: found for pid in pids if (found := stat(pid))}


def below(pid: int, processes: dict | None = None) -> dict:
    """The processes below one, as far as parents tell, zombies among them."""
    processes = processes or table()
    found, edge = {}, {pid}
    while edge:
        edge = {one for one, facts in processes.items() if facts.parent in edge}
        found.update({one: processes[one] for one in edge})
    return found


def role(pid: int) -> str:
    """The subcommand with which a process of ours was started."""
    words = command(pid)
    return words[1] if len(words) > 1 else ""


def descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory(pid: int) -> dict:
    """Bytes of a process: `pss`, its share of what it has mapped, and `private`, what nobody shares."""
    found = {"pss": 0, "private": 0}
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        word, _, rest = line.partition(":")
        if word == "Pss":
            found["pss"] = int(rest.split()[0]) * 1024
        if word in ("Private_Clean", "Private_Dirty"):
            found["private"] += int(rest.split()[0]) * 1024
    return found


def forget_peak(pid: int):
    """Lets the peak of a process's memory begin anew: proc_pid_clear_refs(5)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak(pid: int) -> int:
    """Bytes that a process has had resident at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

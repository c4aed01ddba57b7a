"""The soak: cells that crash, fork, exit and are stopped, in a random order that a seed repeats.

    soak.py [--cells 500] [--seed N] [--log FILE]

After each cell: it ended as it must, what it printed is right, no process is there that should not
be. Now and then, and at the end, every variable is compared with a model. After a warm-up and at the
end, descriptors and memory of the kernel's processes are taken and compared. What goes wrong is a
finding; the soak goes on with a fresh kernel, and its status is 1.

    FORKLAB_SOAK_ROOT: the directory below which the kernel makes its own, as TMPDIR.
"""

import argparse
import queue
import random
import re
import sys
import time
from pathlib import Path

import zmq

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import cells  # noqa: E402
import facts  # noqa: E402
from kernels import Kernel, Result  # noqa: E402

PRELUDE = (Path(__file__).resolve().parent / "prelude.rs").read_text()
CELL_LIMIT = 120
# How long a fact may take to become true.
PATIENCE = 5.0
LEFT = re.compile(r"^left (\d+) (\d+)$", re.MULTILINE)
KILLER = re.compile(r"^killer (\d+)$", re.MULTILINE)
# By how much a process may have grown, in bytes of PSS. The engine's is shown and not judged:
# evcxr keeps what the cells have defined.
GROWTH = {"server": 24 << 20, "supervisor": 3 << 20}
MOST_FINDINGS = 12


class Finding(Exception):
    """Something is not as it must be."""


class Notebook:
    """A kernel, the processes of it that we know, and the variables that it should have."""

    def __init__(self):
        import os

        self.mark = facts.new_mark()
        self.kernel = Kernel(env={**os.environ, facts.MARK: self.mark})
        self.server = self.kernel.pid
        self.model = {}
        # Pid → how it was left behind, as prelude.rs's `linger` numbers it.
        self.left, self.unsure, self.killers = {}, set(), set()
        # Killers that had gone when the last cell was looked at: what they did is over by the next.
        self.gone_killers = set()
        result = self.run(PRELUDE)
        if result.reply["status"] != "ok":
            raise SystemExit(f"the prelude does not run: {result.reply}")
        self.worker = self.find_worker()

    # --- processes

    def one(self, role: str) -> int:
        """The server's child of a role; of several, the oldest."""
        found = [pid for pid, one in facts.below(self.server).items() if one.parent == self.server and facts.role(pid) == role]
        if not found:
            raise Finding(f"the server has no {role}")
        return min(found)

    def supervisor(self) -> int:
        return self.one("supervisor")

    def find_worker(self):
        """Of the supervisor's children, the session's leader that has the terminal."""
        supervisor = self.supervisor()
        for pid, one in facts.below(supervisor).items():
            if one.parent == supervisor and one.session == pid and one.terminal != 0 and one.state not in "ZX":
                return pid
        return None

    def strangers(self) -> list:
        """What is wrong among the processes now; empty when nothing is."""
        supervisor, worker = self.supervisor(), self.find_worker()
        table = facts.table()
        wrong, checkpoints = [], 0
        for pid, one in facts.below(supervisor, table).items():
            if one.state in "ZX":
                # A child of the worker's is the lesson's to wait for; one of the supervisor's is not.
                if one.parent == supervisor:
                    wrong.append(f"{pid} is a zombie below the supervisor")
                continue
            if pid == worker or pid in self.left or pid in self.killers:
                continue
            if one.parent == supervisor and one.session == pid and facts.role(pid) == "worker":
                checkpoints += 1
                continue
            wrong.append(f"{pid} ({one.name}, {one.state}, child of {one.parent}) is nobody we know")
        if worker is None:
            wrong.append("there is no worker")
        if checkpoints != 1:
            wrong.append(f"{checkpoints} checkpoints")
        for pid, one in table.items():
            if one.state in "ZX" and one.parent == self.server:
                wrong.append(f"{pid} ({one.name}) is a zombie below the server")
        for pid in self.left:
            found = table.get(pid)
            if (not found or found.state in "ZX") and pid not in self.unsure:
                wrong.append(f"the left-over {pid} (how {self.left[pid]}) has gone")
        return wrong

    def settle(self, what: str):
        """Waits until the processes are as they should be."""
        deadline = time.monotonic() + PATIENCE
        while wrong := self.strangers():
            if time.monotonic() > deadline:
                raise Finding(f"{what}: " + "; ".join(wrong))
            time.sleep(0.02)

    def must_end(self, pids, what: str):
        deadline = time.monotonic() + PATIENCE
        while alive := [pid for pid in pids if (one := facts.stat(pid)) and one.state not in "ZX"]:
            if time.monotonic() > deadline:
                raise Finding(f"{what}: these live on: {alive}")
            time.sleep(0.02)

    def describe(self) -> str:
        """Every process of the kernel's and what it waits for, for a cell that does not end."""
        lines = [f"load {Path('/proc/loadavg').read_text().strip()}"]
        for pid, one in facts.below(self.server).items():
            folder = Path(f"/proc/{pid}")
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:100]
                waits = (folder / "wchan").read_text() + " " + (folder / "syscall").read_text().strip()[:60]
            except OSError:
                command, waits = "", ""
            lines.append(f"{pid} child of {one.parent} {one.state} {one.cpu:.2f} s {one.name}: {command} [{waits}]")
        return "\n".join(lines)

    def measure(self) -> dict:
        """Descriptors and memory of every process of the kernel's, after everything else has ended."""
        processes = {"server": self.server, "supervisor": self.supervisor(), "engine": self.one("engine"), "worker": self.find_worker()}
        return {name: (facts.descriptors(pid), facts.memory(pid)["pss"]) for name, pid in processes.items()}

    # --- cells

    def interrupt(self):
        client = self.kernel.client
        client.control_channel.send(client.session.msg("interrupt_request", {}))

    def run(self, code: str, moment=None) -> Result:
        """Runs code; `moment` as Cell.interrupt."""
        return self.collect(self.kernel.submit(code, allow_stdin=False), moment)

    def collect(self, message_id: str, moment=None) -> Result:
        client, result, idle, begun = self.kernel.client, Result(message_id), False, False
        due, asked, answered = None, moment is not None, moment is None
        poller = zmq.Poller()
        for channel in (client.iopub_channel, client.shell_channel, client.control_channel):
            poller.register(channel.socket, zmq.POLLIN)
        deadline = time.monotonic() + CELL_LIMIT
        # An interrupt that is sent is waited for, so that its answer is not taken for a later one's.
        while not (idle and result.reply and (answered or moment is not None)):
            now = time.monotonic()
            if now > deadline:
                said = f"idle: {idle}, reply: {result.reply}, said: {result.stdout[-300:]!r}"
                raise Finding(f"no end in {CELL_LIMIT} s; {said}\n{self.describe()}")
            if due is not None and now >= due:
                self.interrupt()
                due, moment = None, None
            poller.poll(max(0, min(1000, ((due or now + 1) - now) * 1000)))
            for message in self.pending(client.iopub_channel):
                if message["parent_header"].get("msg_id") != message_id:
                    continue
                kind, content = message["msg_type"], message["content"]
                if kind == "status":
                    idle = content["execution_state"] == "idle"
                elif kind == "execute_input":
                    begun = True
                else:
                    result.outputs.append((kind, content))
            for message in self.pending(client.shell_channel):
                if message["parent_header"].get("msg_id") == message_id:
                    result.reply = message["content"]
            for _ in self.pending(client.control_channel):
                answered = True
            if due is None and moment is not None:
                if moment[0] == "sent" and begun:
                    due = time.monotonic() + moment[1]
                if moment[0] == "seen" and moment[1] in result.stdout:
                    due = time.monotonic() + moment[2]
        result.interrupt_sent = asked and moment is None
        return result

    @staticmethod
    def pending(channel):
        while True:
            try:
                yield channel.get_msg(timeout=0)
            except queue.Empty:
                return

    def clear(self):
        """The stop button, without a cell: ends everything that cells have left behind."""
        client = self.kernel.client
        self.interrupt()
        # A cell that is sent before the answer could be the one that is interrupted.
        client.get_control_msg(timeout=CELL_LIMIT)
        self.must_end([*self.left, *self.killers], "an interrupt without a cell")
        self.left, self.unsure, self.killers = {}, set(), set()
        # The lesson's zombies are its own; a cell waits for them.
        self.check_end(self.run("while wait().is_ok() {}"), ("ok",))
        self.settle("after everything was ended")

    def check_end(self, result: Result, ends: tuple) -> str:
        """How a cell ended: `ok`, or the error's name. One of `ends`, and said alike everywhere."""
        reply = result.reply
        end = "ok" if reply["status"] == "ok" else reply.get("ename", reply["status"])
        errors = result.errors
        if len(errors) != (0 if end == "ok" else 1):
            raise Finding(f"{len(errors)} error messages for an end by {end}")
        if errors and any(errors[0][key] != reply[key] for key in ("ename", "evalue", "traceback")):
            raise Finding("message and reply differ")
        if end in ends:
            return end
        if end == "SIGKILL" and self.killers:
            return end
        said = "\n".join(reply.get("traceback", []))
        said = said if len(said) < 3000 else said[:1500] + "\n[…]\n" + said[-1500:]
        raise Finding(f"ended by {end}, not by {' or '.join(ends)}: {reply.get('evalue')}\n{said}")

    def check_variables(self):
        code, said = cells.show_all(self.model)
        for _ in range(3):
            result = self.run(code)
            if self.check_end(result, ("ok",)) == "ok":
                break
            # By a killer, which may have ended the worker under this cell; what it left is unsure.
            self.unsure |= {pid for pid, how in self.left.items() if how in cells.UNSURE}
        if result.stdout != said:
            pairs = zip(said.splitlines(), result.stdout.splitlines(), strict=False)
            wrong = [f"{line!r}, should be {right!r}" for right, line in pairs if right != line]
            raise Finding(f"variables are wrong: {wrong or result.stdout!r}")
        self.settle("after a look at the variables")
        self.worker = self.find_worker() or self.worker

    def play(self, cell: cells.Cell, again: bool) -> str:
        """Runs a cell and looks at what came of it."""
        worker = self.worker
        result = self.run(cell.code, cell.interrupt)
        end = self.check_end(result, cell.ends)
        began = {int(pid): int(how) for pid, how in LEFT.findall(result.stdout)}
        if end in cells.RETURNED and end in cell.ends:
            cell.effect(self.model)
            self.left.update(began)
            self.unsure |= {pid for pid, how in began.items() if how in cells.UNSURE}
            self.killers |= {int(pid) for pid in KILLER.findall(result.stdout)}
            if end == "ok":
                # What a killer ends while a cell waits for its children hangs them up.
                if not (cell.kind == "waits" and self.killers):
                    self.check_print(cell, result, again)
                self.must_end(cell.kills, "killed")
                for pid in cell.kills:
                    self.left.pop(pid, None)
                    self.unsure.discard(pid)
                if wrong := cell.check(result.stdout):
                    raise Finding(wrong)
        else:
            self.must_end(began, "rolled back")
            self.after_rollback(cell, end)
        if cell.interrupt and result.interrupt_sent:
            # It may have come after the cell's end, and is then for what earlier cells have left.
            self.unsure |= set(self.left)
        self.settle(f"after {end}")
        self.forget_gone()
        self.worker = self.find_worker() or (None if self.killers else self.worker)
        if end in cells.RETURNED and worker is not None and worker != self.worker and not self.killers and not cell.interrupt:
            raise Finding(f"the worker was {worker} and is {self.worker}, after {end}")
        # What a killer did just before it went may show only now: it counts for one more cell.
        self.killers -= self.gone_killers
        self.gone_killers = {pid for pid in self.killers if not (one := facts.stat(pid)) or one.state in "ZX"}
        return end

    def after_rollback(self, cell: cells.Cell, end: str):
        if end == "CompileError":
            return
        if end in ("Interrupted", "LimitReached"):
            # Both end everything that the notebook runs.
            self.must_end([*self.left, *self.killers], end)
            self.left, self.unsure, self.killers = {}, set(), set()
            return
        self.unsure |= {pid for pid, how in self.left.items() if how in cells.UNSURE}
        if cell.kind == "group_killed":
            self.unsure |= {pid for pid, how in self.left.items() if not how & 1}

    def forget_gone(self):
        for pid in [pid for pid in self.unsure if not (one := facts.stat(pid)) or one.state in "ZX"]:
            self.unsure.discard(pid)
            self.left.pop(pid, None)

    @staticmethod
    def check_print(cell: cells.Cell, result: Result, again: bool):
        right = cell.prints
        if isinstance(right, tuple):
            right = None if again else right[1]
        if isinstance(right, int):
            if len(result.stdout) != right:
                raise Finding(f"{len(result.stdout)} bytes came, {right} were written")
        elif right is not None and result.stdout != right:
            raise Finding(f"said {result.stdout[-500:]!r}, not {right[-500:]!r}")

    def end(self):
        """Shuts the kernel down and looks whether anything is left."""
        kernel, marks = self.kernel, self.mark
        kernel.client.stop_channels()
        kernel.manager.shutdown_kernel(now=False)
        deadline = time.monotonic() + PATIENCE
        while (left := facts.marked(marks)) and time.monotonic() < deadline:
            time.sleep(0.02)
        if left:
            raise Finding(f"after the shutdown there are {left}")


class Soak:
    def __init__(self, arguments):
        self.arguments = arguments
        self.rng = random.Random(arguments.seed)
        self.log = open(arguments.log, "w") if arguments.log else None
        self.findings, self.ends, self.past = [], {}, []
        self.done = 0
        self.notebook = None

    def note(self, text: str):
        if self.log:
            self.log.write(text + "\n")
            self.log.flush()

    def cell(self, cell: cells.Cell, again=False):
        self.note(f"--- {self.done} {cell.kind}{' again' if again else ''}\n{cell.code}")
        self.past.append(cell)
        began = time.monotonic()
        end = self.notebook.play(cell, again)
        self.note(f"=== {end}, {time.monotonic() - began:.3f} s, left {self.notebook.left}")
        self.ends[end] = self.ends.get(end, 0) + 1
        if end not in cells.RETURNED and self.rng.random() < 0.4 or self.rng.random() < 0.15:
            self.note("--- check")
            self.notebook.check_variables()

    def author(self) -> cells.Author:
        notebook = self.notebook
        return cells.Author(self.rng, notebook.model, set(notebook.left) - notebook.unsure)

    def draw(self):
        """A new cell, or one that has run before."""
        if self.rng.random() < 0.15:
            fit = [cell for cell in self.past[-60:] if cell.may_run(self.notebook.model) and cell.kind not in ("move", "ghost", "ps", "kill_one", "kill_all")]
            if fit:
                return self.rng.choice(fit), True
        return self.author().draw(), False

    def queue(self):
        """Three cells at once, of which the second fails: the third does not run."""
        author = self.author()
        first, third = author.define(), author.define()
        self.note(f"--- queue\n{first.code}\n{third.code}")
        notebook = self.notebook
        ids = [notebook.kernel.submit(code, allow_stdin=False) for code in (first.code, "std::process::exit(1);", third.code)]
        # In the order in which they were sent; a later one's messages are dropped by the wait for an earlier.
        statuses = self.collect_all(ids)
        if statuses[0] == "ok":
            first.effect(notebook.model)
        if statuses[1:] != ["error", "aborted"] or statuses[0] not in ("ok", "error") or (statuses[0] == "error" and not notebook.killers):
            raise Finding(f"a queue of good, bad, good came to {statuses}")
        notebook.unsure |= {pid for pid, how in notebook.left.items() if how in cells.UNSURE}
        notebook.settle("after a queue")
        notebook.worker = notebook.find_worker()
        notebook.check_variables()

    def collect_all(self, ids: list) -> list:
        client, replies, idle = self.notebook.kernel.client, {}, set()
        deadline = time.monotonic() + CELL_LIMIT
        while len(replies) < len(ids) or len(idle) < len(ids):
            if time.monotonic() > deadline:
                raise Finding(f"a queue does not end: {replies}, idle {len(idle)} of {len(ids)}")
            for message in self.notebook.pending(client.shell_channel):
                parent = message["parent_header"].get("msg_id")
                if parent in ids:
                    replies[parent] = message["content"]["status"]
            for message in self.notebook.pending(client.iopub_channel):
                parent = message["parent_header"].get("msg_id")
                if parent in ids and message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                    idle.add(parent)
            time.sleep(0.005)
        return [replies[one] for one in ids]

    def finding(self, error):
        last = "\n".join(f"[{cell.kind}]\n{cell.code}" for cell in self.past[-3:])
        text = f"finding {len(self.findings) + 1}, at cell {self.done} of seed {self.arguments.seed}: {error}\nthe last three cells:\n{last}\n"
        self.findings.append(text)
        self.note(text)
        print(text, flush=True)
        self.fresh(judge=False)

    def fresh(self, judge=True):
        """Another kernel in place of this one."""
        if self.notebook:
            try:
                self.notebook.end()
            except Exception as error:
                if judge:
                    raise
                print(f"and at its end: {error}", flush=True)
        self.past = []
        self.notebook = Notebook()

    def guarded(self, step, *arguments):
        try:
            return step(*arguments)
        except (Finding, AssertionError) as error:
            self.finding(error)
            return None

    def warm_up(self):
        for kind in cells.KINDS:
            self.cell(self.author().write(kind))
        self.notebook.clear()
        self.notebook.check_variables()

    def measured(self) -> dict:
        self.notebook.clear()
        return self.notebook.measure()

    def run(self) -> int:
        print(f"soak: {self.arguments.cells} cells, seed {self.arguments.seed}", flush=True)
        began = time.monotonic()
        self.fresh()
        self.guarded(self.warm_up)
        first = self.guarded(self.measured)
        for self.done in range(1, self.arguments.cells + 1):
            if self.rng.random() < 0.03:
                self.guarded(self.queue)
            else:
                self.guarded(lambda: self.cell(*self.draw()))
            if self.done % 50 == 0:
                self.guarded(self.notebook.clear)
                self.guarded(self.notebook.check_variables)
                figures = self.guarded(self.notebook.measure)
                print(f"{self.done} cells, {time.monotonic() - began:.0f} s: {shown(figures)}", flush=True)
            if len(self.findings) >= MOST_FINDINGS:
                print("too many findings; stopped")
                break
        last = self.guarded(self.measured)
        self.guarded(self.notebook.check_variables)
        self.guarded(self.notebook.end)
        self.compare(first, last)
        print(f"ends: {dict(sorted(self.ends.items(), key=lambda pair: -pair[1]))}")
        print(f"{self.done} cells in {time.monotonic() - began:.0f} s, {len(self.findings)} findings")
        return 1 if self.findings else 0

    def compare(self, first, last):
        if not first or not last:
            return
        print(f"after the warm-up: {shown(first)}\nat the end:        {shown(last)}")
        if self.findings:
            print("(another kernel than at the beginning: not compared)")
            return
        for name in ("server", "supervisor", "engine"):
            if last[name][0] > first[name][0]:
                self.findings.append(f"{name}: {first[name][0]} descriptors became {last[name][0]}")
            if name in GROWTH and last[name][1] - first[name][1] > GROWTH[name]:
                self.findings.append(f"{name}: has grown by {(last[name][1] - first[name][1]) >> 20} MB")
        for finding in self.findings:
            print(finding)


def shown(figures) -> str:
    if not figures:
        return "not measured"
    return ", ".join(f"{name} {fds} fds {pss / 1e6:.1f} MB" for name, (fds, pss) in figures.items())


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randint(1, 10**6))
    parser.add_argument("--log", help="every cell and its end, into this file")
    return Soak(parser.parse_args()).run()


if __name__ == "__main__":
    sys.exit(main())

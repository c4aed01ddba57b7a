"""Measures the same cells in several kernels, alternating between them, and prints a table.

    bench.py [--kernels forklab,evcxr,ipykernel] [--only NAME ...] [--repeats 5] [--json FILE]
             [--beside 5] [--patience SECONDS] [--short] [--list]

A time is from the sending of a request to the idle that is said for it. No time is judged; the status is 1 when something could not be measured.
"""

import argparse
import json
import os
import platform
import queue
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import facts  # noqa: E402
import lessons  # noqa: E402
import rustc  # noqa: E402
from subject import KINDS, Failed, Subject  # noqa: E402

# Above so many busy processors of others, a sample is noisy.
NOISY = 0.4
numbers = count(1001)


def busy_ticks() -> int:
    words = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    idle = int(words[3]) + int(words[4])
    return sum(int(word) for word in words[:8]) - idle


class Quiet:
    """Whether others work on this machine: processors busy while our kernels are idle."""

    def __init__(self, patience: float):
        self.patience = patience

    def busy(self, window=0.15) -> float:
        before, begun = busy_ticks(), time.monotonic()
        time.sleep(window)
        return (busy_ticks() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - begun)

    def wait(self) -> float:
        """Waits for quiet, as long as there is patience; how busy it is now."""
        deadline = time.monotonic() + self.patience
        while (now := self.busy()) > NOISY and time.monotonic() < deadline:
            time.sleep(0.5)
        return now


class Bench:
    def __init__(self, arguments):
        self.arguments = arguments
        self.quiet = Quiet(arguments.patience)
        self.kinds = [KINDS[name] for name in arguments.kernels]
        # Measure → kernel → samples of (value, processors that others kept busy).
        self.samples, self.units, self.running = {}, {}, {}
        self.unfinished = []
        short = ("println", "lesson")
        self.lessons = {name: cell for name, cell in lessons.CELLS.items() if not arguments.short or name in short}

    def note(self, measure: str, kernel: str, value: float, unit: str, busy: float):
        self.samples.setdefault(measure, {}).setdefault(kernel, []).append((value, busy))
        self.units[measure] = unit
        print(f"  {measure}, {kernel}: {value:.4g} {unit}{' (noisy)' if busy > NOISY else ''}", file=sys.stderr, flush=True)

    def code(self, kind, cell: dict, number=None) -> str:
        return self.fill(cell[kind.language], number)

    @staticmethod
    def fill(code: str, number=None) -> str:
        return code.replace("@N@", str(number if number is not None else next(numbers)))

    # --- kernels that live through all cells

    def subjects(self) -> list:
        """One running kernel of each kind, set up."""
        for kind in self.kinds:
            if kind.name not in self.running:
                self.running[kind.name] = self.set_up(Subject(kind))
        return list(self.running.values())

    @staticmethod
    def set_up(subject: Subject) -> Subject:
        library = os.environ.get("FORKLAB_BENCH_LIBRARY", "")
        for code in lessons.SETUP[subject.kind.setup]:
            subject.good(code.replace("@LIBRARY@", library))
        for name in ("println", "let", "expression"):
            subject.good(Bench.fill(lessons.CELLS[name][subject.kind.language]))
        subject.settle()
        return subject

    def close(self):
        running, self.running = self.running, {}
        for subject in running.values():
            subject.end()

    def each(self, repeats: int):
        """Every running kernel in turn, `repeats` times over, when it is idle, and how busy others are."""
        for _ in range(repeats):
            for subject in self.subjects():
                subject.settle()
                yield subject, self.quiet.wait()

    # --- measures

    def starts(self):
        """kernel ready, first cell, first let, shutdown: from fresh kernels, one at a time."""
        for _ in range(self.arguments.repeats):
            for kind in self.kinds:
                busy = self.quiet.wait()
                subject = Subject(kind)
                self.note("kernel ready", kind.name, subject.ready_seconds * 1e3, "ms", busy)
                subject.good(self.code(kind, lessons.CELLS["println"]))
                self.note("process start to the end of the first cell", kind.name, (time.monotonic() - subject.started) * 1e3, "ms", busy)
                run = subject.good(self.code(kind, lessons.CELLS["let"]))
                self.note("the first let, right after it", kind.name, run.seconds * 1e3, "ms", busy)
                subject.settle()
                self.note("shutdown", kind.name, subject.end() * 1e3, "ms", busy)

    def cells(self):
        for name, cell in self.lessons.items():
            for subject, busy in self.each(self.arguments.repeats):
                code = self.code(subject.kind, cell)
                for step in ("new", "rerun", "second rerun"):
                    self.note(f"{name}: {step}", subject.kind.name, subject.good(code).seconds * 1e3, "ms", busy)
                    subject.settle()

    def own_time(self):
        """The cells' own run time is in every figure; this is a cell's without compilation, measured inside."""
        cell = {
            "rust": "{ let begun = std::time::Instant::now();\n"
            + "let mut c = forklab::Process::new(|| println!(\"child @N@\")); c.start().unwrap(); c.join().unwrap();\n"
            + "println!(\"{}\", begun.elapsed().as_secs_f64() * 1e3); }",
            "python": "begun = time.monotonic(); c = Process(target=lambda: print('child @N@')); c.start(); c.join()\nprint((time.monotonic() - begun) * 1e3)",
        }
        for subject, busy in self.each(self.arguments.repeats):
            said = subject.good(self.code(subject.kind, cell)).stdout
            value = [line for line in said.splitlines() if not line.startswith("child")][0]
            self.note("one Process, start to join, inside the cell", subject.kind.name, float(value), "ms", busy)

    def completion(self):
        for subject, busy in self.each(self.arguments.repeats):
            self.note("completion", subject.kind.name, subject.complete(self.code(subject.kind, lessons.COMPLETION)) * 1e3, "ms", busy)

    def output(self):
        for name, cell in (("16 MB from one writer", lessons.OUTPUT), ("16 MB from eight at once", lessons.OUTPUT_BY_EIGHT)):
            for subject, busy in self.each(self.arguments.repeats):
                run = subject.good(self.code(subject.kind, cell))
                begun = re.search(r"begun ([0-9.]+)\n", run.stdout)
                size = run.size - len(begun.group())
                if size != lessons.OUTPUT_BYTES:
                    print(f"  {subject.kind.name}: {size} bytes of {lessons.OUTPUT_BYTES} came", file=sys.stderr)
                self.note(name, subject.kind.name, (run.ended - float(begun.group(1))) * 1e3, "ms", busy)

    def responsive(self):
        """While eight processes write 48 MB: what another question waits, and what the kernel's first process holds."""
        cell = lessons.output_by_eight(48)
        for subject, busy in self.each(self.arguments.repeats):
            name = subject.kind.name
            if name == "evcxr":
                # Half a minute for each; and its control channel is its own affair.
                continue
            server = subject.manager.provisioner.process.pid
            facts.forget_peak(server)
            before = facts.peak(server)
            times = subject.probed(self.code(subject.kind, cell))
            self.note("the slowest kernel_info while eight write 48 MB", name, max(times) * 1e3, "ms", busy)
            self.note("by how much the server's memory grows then", name, (facts.peak(server) - before) / 1e6, "MB", 0)

    def fork(self):
        """In fresh kernels: what has been loaded before is part of what is copied."""
        floor = os.environ.get("FORKLAB_BENCH_FLOOR")
        for _ in range(self.arguments.repeats):
            for subject, busy in self.each(1):
                said = subject.good(self.code(subject.kind, lessons.FORK)).stdout
                self.note("fork + wait, of 2,000", subject.kind.name, float(said), "µs", busy)
            if floor:
                busy = self.quiet.wait()
                value = float(subprocess.run([floor], check=True, capture_output=True, text=True).stdout)
                self.note("fork + wait, of 2,000", "plain program", value, "µs", busy)

    def compiler(self):
        """The compiler alone on the cells' sources."""
        for subject in self.subjects():
            if subject.kind.language == "rust":
                for name, cell in self.lessons.items():
                    self.compiler_of(subject, name, cell)

    def compiler_of(self, subject: Subject, name: str, cell: dict):
        kernel = subject.kind.name
        before = rustc.compilers(subject, self.code(subject.kind, cell))
        subject.settle()
        with tempfile.TemporaryDirectory() as scratch:
            remembered = None
            if before and (incremental := before[-1].incremental()):
                remembered = Path(shutil.copytree(incremental, Path(scratch) / "incremental"))
            found = rustc.compilers(subject, self.code(subject.kind, cell))
            if not found:
                print(f"  {kernel}: no compiler was seen for {name}", file=sys.stderr)
                return
            self.note(f"{name}: compilations", kernel, len(found), "", 0)
            subject.settle()
            busy = self.quiet.wait()
            try:
                for seconds in rustc.alone(found[-1], self.arguments.repeats):
                    self.note(f"{name}: rustc alone, from cold", kernel, seconds * 1e3, "ms", busy)
                if remembered:
                    for seconds in rustc.alone(found[-1], self.arguments.repeats, remembered):
                        self.note(f"{name}: rustc alone, incremental", kernel, seconds * 1e3, "ms", busy)
            except RuntimeError as error:
                print(f"  {kernel}: the compiler alone fails on {name}: {error}", file=sys.stderr)

    def growth(self):
        """Fifty cells of the same kind, each with a function and a variable; then ordinary cells."""
        for kind in self.kinds:
            subject = self.set_up(Subject(kind))
            plain = self.ordinary(subject)
            times = []
            for _ in range(50):
                busy = self.quiet.wait()
                times.append((subject.good(self.code(kind, lessons.DEFINITION)).seconds * 1e3, busy))
                subject.settle(2)
            after = self.ordinary(subject)
            # Each cell's object stays loaded, and a fork copies its mappings.
            forks = [(float(subject.good(self.code(kind, lessons.FORK)).stdout), self.quiet.wait()) for _ in range(self.arguments.repeats)]
            for value, busy in forks:
                self.note("fork + wait after fifty definitions", kind.name, value, "µs", busy)
            for measure, values in (
                ("definitions: cells 2 to 6", times[1:6]), ("definitions: cells 46 to 50", times[45:]),
                ("println before fifty definitions", plain), ("println after fifty definitions", after),
            ):
                for value, busy in values:
                    self.note(measure, kind.name, value, "ms", busy)
            subject.end()

    def ordinary(self, subject: Subject) -> list:
        found = []
        for _ in range(self.arguments.repeats):
            subject.settle(5)
            busy = self.quiet.wait()
            found.append((subject.good(self.code(subject.kind, lessons.CELLS["println"])).seconds * 1e3, busy))
        return found

    def memory(self):
        """PSS of one kernel, and what further ones beside it cost, each idle after a lesson."""
        for kind in self.kinds:
            mine, totals, private = [], [], 0
            try:
                for _ in range(self.arguments.beside):
                    subject = self.set_up(Subject(kind))
                    for name in ("function", "process", "lesson"):
                        subject.good(self.code(kind, lessons.CELLS[name]))
                    subject.complete(self.code(kind, lessons.COMPLETION))
                    subject.settle()
                    mine.append(subject)
                    totals.append(sum(self.bytes_of(one, "pss") for one in mine))
                private = self.bytes_of(mine[-1], "private")
            finally:
                for subject in mine:
                    subject.end()
            self.note("memory of one kernel (PSS)", kind.name, totals[0] / 1e6, "MB", 0)
            if len(totals) > 1:
                which = f"kernel {len(totals)} beside the others"
                self.note(f"memory: what {which} adds (PSS)", kind.name, (totals[-1] - totals[-2]) / 1e6, "MB", 0)
                self.note(f"memory: private pages of {which}", kind.name, private / 1e6, "MB", 0)

    @staticmethod
    def bytes_of(subject: Subject, what: str) -> int:
        return sum(facts.memory(pid)[what] for pid in subject.processes())

    def checkpoint(self):
        """The far side alone, by the Rust program beside this one, which prints a JSON line for each sample."""
        program = os.environ.get("FORKLAB_BENCH_FAR_SIDE")
        if not program or not any(kind.setup == "forklab" for kind in self.kinds):
            return
        busy = self.quiet.wait()
        done = subprocess.run([program, "--repeats", str(self.arguments.repeats)], check=True, capture_output=True, text=True)
        for line in done.stdout.splitlines():
            one = json.loads(line)
            self.note(one["measure"], one.get("column", "forklab"), one["value"], one["unit"], busy)

    def state(self):
        """A whole cell, rerun and new, beside state of several sizes."""
        for kind in self.kinds:
            if kind.language != "rust":
                continue
            for size in (0, 100, 500):
                subject = self.set_up(Subject(kind))
                if size:
                    subject.good(self.fill(lessons.STATE, size))
                for value, busy in self.ordinary(subject):
                    self.note(f"println beside {size} MB of state", kind.name, value, "ms", busy)
                subject.end()

    MEASURES = {
        "starts": starts, "cells": cells, "process": own_time, "completion": completion, "output": output, "responsive": responsive, "fork": fork,
        "compiler": compiler, "growth": growth, "memory": memory, "checkpoint": checkpoint, "state": state,
    }

    def run(self):
        for name in self.arguments.only:
            print(f"{name}, {load()}", file=sys.stderr, flush=True)
            if name in ("starts", "fork", "growth", "memory", "state", "checkpoint"):
                self.close()
            try:
                self.MEASURES[name](self)
            except (Failed, queue.Empty) as error:
                # What has been measured stays; the next measure begins with fresh kernels.
                print(f"{name} was not finished: {error!r}", file=sys.stderr)
                self.unfinished.append(name)
                self.close()
        self.close()

    # --- showing

    def figure(self, measure: str, kernel: str):
        """Median, least, number and number of noisy ones; the median is of the quiet where there are three."""
        samples = self.samples[measure].get(kernel)
        if not samples:
            return None
        calm = [value for value, busy in samples if busy <= NOISY]
        used = calm if len(calm) >= min(3, len(samples)) else [value for value, _ in samples]
        return statistics.median(used), min(value for value, _ in samples), len(samples), len(samples) - len(calm)

    def table(self) -> str:
        kernels = [kind.name for kind in self.kinds]
        others = kernels[1:]
        extra = ["plain program"] if any("plain program" in one for one in self.samples.values()) else []
        head = ["", *kernels, *extra, *[f"{kernels[0]} ÷ {other}" for other in [*others, *extra]]]
        lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
        for measure in self.samples:
            figures = {kernel: self.figure(measure, kernel) for kernel in [*kernels, *extra]}
            shown = [self.shown(figures[kernel], self.units[measure]) for kernel in [*kernels, *extra]]
            ratios = []
            for other in [*others, *extra]:
                mine, its = figures[kernels[0]], figures[other]
                ratios.append(f"{mine[0] / its[0]:.2f}" if mine and its and its[0] > 0 else "")
            lines.append("| " + " | ".join([measure, *shown, *ratios]) + " |")
        return "\n".join(lines)

    @staticmethod
    def shown(figure, unit: str) -> str:
        if figure is None:
            return ""
        median, least, number, noisy = figure
        said = f"{rounded(median)} {unit}".strip()
        if number == 1:
            return said + (" ~" if noisy else "")
        return f"{said} ({rounded(least)}, n={number}{f', {noisy} noisy' if noisy else ''})"


def rounded(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def load() -> str:
    return "load " + Path("/proc/loadavg").read_text().split(" ", 3)[0]


def machine() -> dict:
    """What the figures were measured on, and with."""
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    memory = int(Path("/proc/meminfo").read_text().split()[1]) * 1024

    def version(*command):
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[0]
        except (OSError, subprocess.CalledProcessError, IndexError):
            return "unknown"

    import ipykernel
    import jupyter_client

    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "cpu": model.group(1).strip() if model else platform.machine(),
        "memory_gb": round(memory / 1e9),
        "linux": platform.release(),
        "rustc": version("rustc", "--version"),
        "forklab": os.environ.get("FORKLAB_BENCH_COMMIT", "unknown"),
        "evcxr_jupyter": os.environ.get("FORKLAB_BENCH_EVCXR", "unknown"),
        "ipykernel": ipykernel.__version__,
        "python": platform.python_version(),
        "jupyter_client": jupyter_client.__version__,
        "load": Path("/proc/loadavg").read_text().split()[:3],
    }


def arguments_of():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", type=lambda text: text.split(","), default=["forklab", "evcxr", "ipykernel"], help=", ".join(KINDS))
    parser.add_argument("--only", nargs="+", choices=list(Bench.MEASURES), default=list(Bench.MEASURES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--beside", type=int, default=5, help="how many kernels stand beside each other for their memory")
    parser.add_argument("--patience", type=float, default=0, help="seconds to wait before a sample while others use the machine")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--short", action="store_true", help="each thing once, without evcxr, to see that it runs")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.repeats, arguments.beside = 1, 1
        arguments.kernels = ["forklab", "ipykernel"]
        arguments.only = [name for name in arguments.only if name not in ("growth", "state")]
    unknown = [name for name in arguments.kernels if name not in KINDS]
    if unknown:
        parser.error(f"no kernel {', '.join(unknown)}; there are: {', '.join(KINDS)}")
    return arguments


def main() -> int:
    arguments = arguments_of()
    before, bench = machine(), Bench(arguments)
    try:
        bench.run()
    finally:
        bench.close()
    facts = ", ".join(f"{name} {value}" for name, value in before.items() if name != "load")
    print(f"Measured on {facts}; load before {' '.join(before['load'])}, after {' '.join(machine()['load'])}.")
    print("Median (least, number of samples); noisy: others used the machine.\n")
    print(bench.table())
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": before, "units": bench.units, "samples": bench.samples}, indent=1) + "\n")
    return 1 if bench.unfinished else 0


if __name__ == "__main__":
    sys.exit(main())

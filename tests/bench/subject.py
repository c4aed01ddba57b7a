"""A kernel that is measured: started, asked and ended as a front end does it, with a clock beside it."""

import os
import queue
import signal
import time
from dataclasses import dataclass, field

import facts
import zmq
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning import local_provisioner

LIMIT = 120

# When the last kernel's process was started: after jupyter_client's own preparations.
_started = {"at": 0.0}
_launch = local_provisioner.launch_kernel


def _timed_launch(*arguments, **options):
    _started["at"] = time.monotonic()
    return _launch(*arguments, **options)


local_provisioner.launch_kernel = _timed_launch


class Failed(Exception):
    """A kernel does not do what is to be measured."""


@dataclass
class Kind:
    """A kernel under its name in the table: the kernelspec, the cells' language, and its environment."""

    name: str
    spec: str
    language: str
    setup: str
    env: dict = field(default_factory=dict)


KINDS = {
    "forklab": Kind("forklab", "forklab", "rust", "forklab"),
    "forklab-cold": Kind("forklab-cold", "forklab", "rust", "forklab", {"FORKLAB_ZYGOTE": "off"}),
    "evcxr": Kind("evcxr", "bench-evcxr", "rust", "evcxr"),
    "ipykernel": Kind("ipykernel", "python3", "python", "ipykernel"),
}


@dataclass
class Run:
    """What one cell came to."""

    seconds: float
    # When, by the monotonic clock.
    ended: float
    status: str
    stdout: str
    size: int
    said: list


class Subject:
    """A running kernel and its client."""

    def __init__(self, kind: Kind):
        self.kind, self.mark = kind, facts.new_mark()
        # A connection that is refused while the kernel starts is tried again after 5 ms, not after 100.
        context = zmq.Context()
        context.reconnect_ivl = 5
        self.manager = KernelManager(kernel_name=kind.spec, context=context)
        self.manager.client_factory = BlockingKernelClient
        self.manager.start_kernel(env={**os.environ, **kind.env, facts.MARK: self.mark})
        self.started = _started["at"]
        self.client = self.manager.client()
        self.client.start_channels(hb=False)
        self.ask("kernel_info_request", {}, "kernel_info_reply")
        self.ready_seconds = time.monotonic() - self.started
        self.join()

    def join(self):
        """Waits until what the kernel publishes comes here: a subscription may be later than a reply."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            try:
                self.client.iopub_channel.get_msg(timeout=0.01)
                return
            except queue.Empty:
                self.ask("kernel_info_request", {}, "kernel_info_reply")
        raise Failed(f"{self.kind.name} publishes nothing")

    def ask(self, kind: str, content: dict, answer: str) -> dict:
        """One request on the shell channel and its reply's content."""
        message = self.client.session.msg(kind, content)
        self.client.shell_channel.send(message)
        deadline = time.monotonic() + LIMIT
        while True:
            reply = self.client.get_shell_msg(timeout=deadline - time.monotonic())
            if reply["parent_header"].get("msg_id") == message["msg_id"]:
                assert reply["msg_type"] == answer, reply
                return reply["content"]

    def run(self, code: str) -> Run:
        """Runs a cell: the time from the request's sending to the idle that is said for it."""
        client, iopub = self.client, self.client.iopub_channel
        # What was said before is not this cell's.
        while True:
            try:
                iopub.get_msg(timeout=0)
            except queue.Empty:
                break
        out, said, size = [], [], 0
        begun = time.monotonic()
        message_id = client.execute(code, allow_stdin=False)
        while True:
            message = iopub.get_msg(timeout=LIMIT)
            if message["parent_header"].get("msg_id") != message_id:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                ended = time.monotonic()
                break
            if kind == "stream":
                size += len(content["text"])
                if content["name"] == "stdout" and (not out or size < 1 << 20):
                    out.append(content["text"])
            said.append(kind)
        while True:
            reply = client.get_shell_msg(timeout=LIMIT)
            if reply["parent_header"].get("msg_id") == message_id:
                break
        return Run(ended - begun, ended, reply["content"]["status"], "".join(out), size, said)

    def probed(self, code: str, pause: float = 0.02) -> list:
        """Runs a cell, and asks for kernel_info on the control channel all the while: seconds of each answer."""
        client, times, asked, idle = self.client, [], None, False
        poller = zmq.Poller()
        for channel in (client.iopub_channel, client.shell_channel, client.control_channel):
            poller.register(channel.socket, zmq.POLLIN)
        message_id, reply, next_question = client.execute(code, allow_stdin=False), None, 0.0
        deadline = time.monotonic() + LIMIT
        while not (idle and reply and asked is None):
            now = time.monotonic()
            if now > deadline:
                raise Failed(f"{self.kind.name} does not end a cell that writes")
            if asked is None and not idle and now >= next_question:
                message = client.session.msg("kernel_info_request", {})
                client.control_channel.send(message)
                asked = (message["msg_id"], time.monotonic())
            ready = dict(poller.poll(10))
            if client.control_channel.socket in ready:
                answer = client.control_channel.get_msg(timeout=0)
                if asked and answer["parent_header"].get("msg_id") == asked[0]:
                    times.append(time.monotonic() - asked[1])
                    asked, next_question = None, time.monotonic() + pause
            if client.shell_channel.socket in ready:
                message = client.shell_channel.get_msg(timeout=0)
                if message["parent_header"].get("msg_id") == message_id:
                    reply = message["content"]
            if client.iopub_channel.socket in ready:
                message = client.iopub_channel.get_msg(timeout=0)
                mine = message["parent_header"].get("msg_id") == message_id
                idle |= mine and message["msg_type"] == "status" and message["content"]["execution_state"] == "idle"
        if reply["status"] != "ok":
            raise Failed(f"{self.kind.name}: {reply}")
        return times

    def good(self, code: str) -> Run:
        """A cell that must end well."""
        run = self.run(code)
        if run.status != "ok" or "error" in run.said:
            raise Failed(f"{self.kind.name} does not run this cell:\n{code}\n{run}")
        return run

    def complete(self, code: str) -> float:
        """Seconds from a question for completions to its answer, which must not be empty."""
        begun = time.monotonic()
        reply = self.ask("complete_request", {"code": code, "cursor_pos": len(code)}, "complete_reply")
        seconds = time.monotonic() - begun
        if not reply.get("matches"):
            raise Failed(f"{self.kind.name} completes nothing in {code!r}")
        return seconds

    def processes(self) -> list:
        """Every process of this kernel's, those that outlive it by design left out."""
        kernel = facts.marked(self.mark)
        return sorted({*kernel, *facts.forked_for(kernel)})

    def settle(self, patience: float = 20.0):
        """Waits until the kernel's processes have stopped working: what follows is not slowed by
        what came before. Less than 20 ms of processor in 200 ms."""
        deadline = time.monotonic() + patience
        before = self.cpu()
        while time.monotonic() < deadline:
            time.sleep(0.2)
            now = self.cpu()
            if now - before < 0.02:
                return
            before = now

    def cpu(self) -> float:
        return sum(one.cpu for pid in self.processes() if (one := facts.stat(pid)))

    def end(self) -> float:
        """Shuts the kernel down; seconds until its last process is gone."""
        processes = self.processes()
        begun = time.monotonic()
        self.client.control_channel.send(self.client.session.msg("shutdown_request", {"restart": False}))
        process = self.manager.provisioner.process
        while time.monotonic() < begun + LIMIT / 4:
            process.poll()
            if not any((one := facts.stat(pid)) and one.state not in "ZX" for pid in processes):
                break
            time.sleep(0.001)
        seconds = time.monotonic() - begun
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        for pid in processes:
            # One that hangs must not work on beside what is measured next.
            if self.mark in facts.marks(pid):
                os.kill(pid, signal.SIGKILL)
        return seconds

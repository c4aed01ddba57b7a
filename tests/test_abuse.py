"""Whatever a cell does to its process: the next cell works, and nothing is left."""

import os
import re
import shutil
from pathlib import Path

import pytest

from abuses import (
    CHECK,
    DESCRIPTORS_AND_TERMINAL,
    ENVIRONMENT_AND_LIMITS,
    KERNEL,
    MEMORY_AND_ENDS,
    PRELUDE,
    SIGNALS_AND_PANICS,
    THREADS,
)
from kernels import Kernel, descendants, eventually, is_alive, processes

ALL = [
    *DESCRIPTORS_AND_TERMINAL,
    *SIGNALS_AND_PANICS,
    *THREADS,
    *MEMORY_AND_ENDS,
    *KERNEL,
    *ENVIRONMENT_AND_LIMITS,
]


@pytest.fixture(scope="module")
def abused():
    """The one kernel that all of them abuse."""
    with Kernel() as kernel:
        kernel.run(PRELUDE).good()
        yield kernel


def check(kernel: Kernel):
    """The notebook is as it was."""
    result = kernel.run(CHECK).good()
    assert (result.value, result.stdout, result.stderr) == ("7", "out\n", "err\n")


def strangers(kernel: Kernel) -> list:
    """What lives below a kernel and is neither ours nor the worker or its checkpoint."""
    roles = ("supervisor", "engine", "runner")
    table, workers, found = processes(), [], []
    for pid in filter(is_alive, descendants(kernel.pid)):
        words = table.get(pid, (0, []))[1]
        if words == ["forklab", "worker", ""]:
            workers.append(pid)
        elif not (len(words) > 1 and words[1] in roles):
            found.append((pid, words))
    return found + workers[2:]


def runtime_directory(kernel: Kernel) -> Path:
    """Where a kernel has its files."""
    lines = (words for pid, (_, words) in processes().items() if pid in descendants(kernel.pid))
    return next(Path(words[words.index("--runtime-dir") + 1]) for words in lines if "--runtime-dir" in words)


@pytest.mark.parametrize("abuse", ALL, ids=lambda abuse: abuse.name.replace(" ", "-"))
def test_abuse(abused, abuse):
    if abuse.dies_later:
        worker = int(abused.run("std::process::id()").good().value)
    result = abused.run(abuse.code, limit=30)
    if result.stdout == "refused":
        pytest.skip("this user may not do that here")
    if abuse.says is None:
        result.good()
    else:
        (error,) = result.errors
        assert result.reply["status"] == "error"
        assert re.search(abuse.says, f"{error['ename']}: {error['evalue']}"), error
        assert "restored" in error["evalue"] or error["ename"] == "Panic", error
    assert abuse.prints in result.stdout
    if abuse.dies_later:
        eventually(lambda: not is_alive(worker))
    check(abused)
    eventually(lambda: not strangers(abused))


def test_input_is_read_from_a_spoilt_terminal(abused):
    abused.run(
        """
        unsafe {
            libc::signal(libc::SIGTTOU, libc::SIG_IGN);
            in_child(|| { libc::setpgid(0, 0); libc::tcsetpgrp(0, libc::getpid()); });
            libc::tcflow(0, libc::TCOOFF);
            libc::prctl(libc::PR_SET_DUMPABLE, 0);
        }
        """
    ).good()
    code = 'let mut line = String::new(); std::io::stdin().read_line(&mut line).unwrap(); print!("{line}");'
    assert abused.run(code, answers=["yes"]).good().stdout == "yes\n"
    assert abused.run('std::fs::write("/dev/tty", "text").is_ok()').good().value == "true"


@pytest.mark.parametrize(
    "flood",
    [
        "std::thread::spawn(|| loop { drop(UnixStream::connect(runtime_dir().join(\"supervisor.sock\"))) }); ",
        'std::thread::spawn(|| { let mut t = std::fs::File::options().write(true).open("/dev/tty").unwrap();'
        " loop { let _ = t.write_all(&[b'x'; 65536]); } }); ",
        "std::thread::spawn(|| { let mut s = knock(); s.write_all(&[255, 255, 255, 0]).unwrap();"
        " loop { let _ = s.write_all(b\" \"); sleep(50); } }); ",
        "std::thread::spawn(|| loop { unsafe { libc::kill(supervisor(), libc::SIGCHLD); } }); ",
    ],
    ids=["knocks", "terminal", "drops", "signals"],
)
def test_a_flood_at_the_supervisor_can_be_interrupted(abused, flood):
    begun = []

    def interrupt(kind, content):
        if kind == "stream" and not begun:
            begun.append(content)
            abused.manager.interrupt_kernel()

    code = flood + 'print!("begun"); std::io::stdout().flush().unwrap(); loop { sleep(1000) }'
    result = abused.run(code, on_output=interrupt, limit=15)
    assert "nterrupt" in result.errors[0]["ename"]
    check(abused)
    eventually(lambda: not strangers(abused))


GO = {
    "closed": "std::fs::set_permissions(runtime_dir(), std::os::unix::fs::PermissionsExt::from_mode(0)).unwrap();",
    "removed": "std::fs::remove_dir_all(runtime_dir()).unwrap();",
    "renamed": "std::fs::rename(runtime_dir(), runtime_dir().with_extension(\"moved\")).unwrap();",
}


def test_the_kernels_files_may_go():
    with Kernel() as kernel:
        kernel.run(PRELUDE + "fn double(x: i32) -> i32 { 2 * x }").good()
        directory = runtime_directory(kernel)
        assert directory.stat().st_mode & 0o777 == 0o700
        try:
            for number, (how, code) in enumerate(GO.items()):
                result = kernel.run(code)
                if how == "closed":
                    # Only root does not mind.
                    assert all("unable to open the kernel's files" in error["evalue"] for error in result.errors)
                    directory.chmod(0o700)
                else:
                    result.good()
                check(kernel)
                kernel.run(f"let more_{number} = double(kept.len() as i32);").good()
                assert kernel.run("unsafe { *(8 as *mut i32) = 1 };").errors[0]["ename"] == "SIGSEGV"
                assert kernel.run(f"double(more_{number})").good().value == "12"
                assert kernel.run("!echo shell").good().stdout == "shell\n"
        finally:
            shutil.rmtree(directory.with_suffix(".moved"), ignore_errors=True)
    eventually(lambda: not directory.exists())


def test_a_kill_of_the_kernels_group_ends_every_process():
    """As Jupyter does when a kernel does not answer: SIGKILL to the group of the server."""
    with Kernel() as kernel:
        kernel.run('std::process::Command::new("setsid").args(["sleep", "1000"]).spawn().unwrap();').good()
        below, directory = descendants(kernel.pid), runtime_directory(kernel)
        kernel.manager.shutdown_kernel(now=True)
        eventually(lambda: not any(is_alive(pid) for pid in below), limit=4)
        eventually(lambda: not directory.exists())

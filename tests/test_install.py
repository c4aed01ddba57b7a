"""Installing and removing, below a prefix of the test's own, with another HOME and PATH."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kernels import Kernel


def call(*words, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(word) for word in words],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def files(root: Path) -> dict:
    """Every file below a directory with its time of change, build directories left out."""
    return {
        path: path.stat().st_mtime_ns
        for path in root.rglob("*")
        if path.is_file() and "template" not in path.relative_to(root).parts
    }


@pytest.fixture
def installed(prefix, tmp_path):
    """An installation of its own, in a directory whose name has a space."""
    place = tmp_path / "a place"
    place.mkdir()
    (place / "not ours").write_text("stays")
    done = call(prefix / "bin/forklab", "install", "--prefix", place)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def test_once_more_changes_nothing(installed):
    before = files(installed)
    again = call(installed / "bin/forklab", "install", "--prefix", installed)
    assert again.returncode == 0, again.stderr
    after = files(installed)
    assert after.keys() == before.keys()
    changed = {path.name for path in after if after[path] != before[path]}
    assert changed <= {"installed.json", "installed.lock"}, "its own notes may be written again, nothing else"
    assert "up to date" in again.stdout


def test_uninstall_removes_what_install_put_there_and_nothing_else(installed, prefix):
    (installed / "share/jupyter/kernels/other").mkdir()
    gone = call(prefix / "bin/forklab", "uninstall", "--prefix", installed)
    assert gone.returncode == 0, gone.stderr
    left = {str(path.relative_to(installed)) for path in installed.rglob("*")}
    assert left == {"not ours", "share", "share/jupyter", "share/jupyter/kernels", "share/jupyter/kernels/other"}
    again = call(prefix / "bin/forklab", "uninstall", "--prefix", installed)
    assert again.returncode == 0
    assert "nothing to remove" in again.stdout


def test_the_kernel_runs_for_a_server_with_another_home_and_path(installed, tmp_path, monkeypatch):
    home = tmp_path / "home of somebody"
    home.mkdir()
    monkeypatch.setenv("JUPYTER_PATH", str(installed / "share/jupyter"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CARGO", "RUST", "XDG"))}
    environment |= {"HOME": str(home), "PATH": "/usr/bin:/bin", "JUPYTER_PATH": str(installed / "share/jupyter")}
    with Kernel(env=environment) as kernel:
        worker = kernel.run('println!("{}", forklab::system("true").unwrap().success());')
        assert worker.reply["status"] in ("ok", "error")
        assert kernel.run("40 + 2").good().value == "42"


def test_a_user_installation_follows_jupyters_rules(prefix, tmp_path):
    home, data = tmp_path / "home", tmp_path / "jupyter data"
    home.mkdir()
    environment = {
        "HOME": str(home),
        "JUPYTER_DATA_DIR": str(data),
        "CARGO_HOME": os.environ.get("CARGO_HOME", str(Path.home() / ".cargo")),
        "RUSTUP_HOME": os.environ.get("RUSTUP_HOME", str(Path.home() / ".rustup")),
    }
    done = call(prefix / "bin/forklab", "install", **environment)
    assert done.returncode == 0, done.stderr
    spec = json.loads((data / "kernels/forklab/kernel.json").read_text())
    assert spec["argv"][0] == str(home / ".local/bin/forklab")
    assert spec["interrupt_mode"] == "message"
    gone = call(prefix / "bin/forklab", "uninstall", **environment)
    assert gone.returncode == 0, gone.stderr
    assert not (data / "kernels").exists()
    assert not (home / ".local").exists()


def test_doctor_finds_everything_good(prefix):
    seen = call(prefix / "bin/forklab", "doctor", "--run")
    assert seen.returncode == 0, seen.stdout
    assert "forked and was joined" in seen.stdout


def test_doctor_names_what_is_missing_and_what_to_do(prefix, tmp_path):
    # A PATH with a shell's commands only: neither Rust nor Jupyter.
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "cat", "df", "cc"):
        (tools / name).symlink_to(shutil.which(name))
    seen = call(prefix / "bin/forklab", "doctor", PATH=str(tools))
    assert seen.returncode == 1
    bad = [line for line in seen.stdout.splitlines() if line.startswith("BAD")]
    assert any("rustc" in line for line in bad), seen.stdout
    assert any("jupyter" in line for line in bad), seen.stdout
    assert "https://rustup.rs" in seen.stdout


def test_warm_starts_a_compiler_ahead_and_ends_it(installed, tmp_path, monkeypatch):
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    environment = {"FORKLAB_ZYGOTE": "on", "XDG_RUNTIME_DIR": str(runtime)}
    program = installed / "bin/forklab"
    assert "none yet" in call(program, "doctor", **environment).stdout
    assert call(program, "warm", "--status", **environment).returncode == 1
    try:
        started = call(program, "warm", **environment)
        assert started.stdout.startswith("warm: process "), started.stderr
        assert "warm: process" in call(program, "doctor", **environment).stdout
        # What Jupyter starts has the kernelspec's environment, and finds it.
        monkeypatch.setenv("JUPYTER_PATH", str(installed / "share/jupyter"))
        with Kernel(env={**os.environ, **environment}) as kernel:
            assert kernel.run("40 + 2").good().value == "42"
        assert "1 engines forked" in call(program, "warm", "--status", **environment).stdout
    finally:
        stopped = call(program, "warm", "--stop", **environment)
    assert stopped.stdout == "stopped\n"
    assert not any(runtime.iterdir())


def test_install_sh_says_how_it_is_used():
    script = Path(__file__).resolve().parent.parent / "install.sh"
    assert call(script, "--help").stdout.startswith("Usage:")
    wrong = call(script, "--nonsense")
    assert wrong.returncode == 1
    assert "--help" in wrong.stderr



"""Stand-ins for every program that the launch scripts call; they record their calls."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TOOLS = ["gcloud", "sudo", "systemctl", "sbatch", "srun", "scontrol", "kubectl", "ddpm"]
PYTHONS = ["python3.14", "python3.13", "python3.12", "python3.11"]

# Words that a shell could split, glob, expand or lose.
WORDS = ["a b", "it's", '"quoted"', "$HOME", "$(X)", "`id`", "two\nlines", "*", "~", ""]
WORDS += ["\\", "é;&|", "a=b", "  two  spaces "]


class World:
    """A folder with stand-ins on its PATH, their recorded calls, and their next actions."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        program = self.bin / "stand_in"
        text = (Path(__file__).parent / "stand_in.py").read_text()
        program.write_text(f"#!{sys.executable} -ES\n{text}")
        program.chmod(0o755)
        for name in TOOLS + PYTHONS:
            (self.bin / name).symlink_to(program)
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        self.env = inherited | {"WORLD": str(folder), "PATH": path}
        self.cwd = ROOT
        self.started: list[subprocess.Popen[str]] = []

    def script(self, name: str, *events: str) -> None:
        """Sets the next events, one per call; the last one repeats."""
        (self.folder / name).write_text("\n".join(events) + "\n")

    def stand_for_python3(self) -> None:
        (self.bin / "python3").symlink_to(self.bin / "stand_in")

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        # A shell that runs these tests in the background ignores SIGINT, and all that they start
        # would inherit it; what is caught here is the default there.
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(
            [str(word) for word in words],
            cwd=self.cwd,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, *words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Runs a command with the stand-ins and checks its exit code."""
        process = self.start(*words)
        out, err = process.communicate(timeout=15)
        assert process.returncode == code, f"exited {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(words, code, out, err)

    def calls(self, tool: str = "") -> list[dict]:
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call for call in map(json.loads, lines) if tool in ("", call["tool"])]

    def argv(self, tool: str) -> list[list[str]]:
        return [call["argv"] for call in self.calls(tool)]

    def notes(self, key: str) -> list:
        path = self.folder / "notes"
        lines = path.read_text().splitlines() if path.exists() else []
        return [note[key] for note in map(json.loads, lines) if key in note]

    def wait(self, true, what: str) -> None:
        end = time.monotonic() + 10
        while not true():
            assert time.monotonic() < end, f"never: {what}"
            time.sleep(0.01)

    def end(self) -> None:
        """Ends every process and closes every pipe that a test left."""
        # Children and services have their own process groups, but share the script's session.
        services = self.folder / "services"
        sessions = {process.pid for process in self.started}
        sessions |= {int(it) for it in services.read_text().split()} if services.exists() else set()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.getsid(int(process.name)) in sessions:
                    os.kill(int(process.name), signal.SIGKILL)
        for process in self.started:
            process.communicate(timeout=10)


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path / "world")
    yield made
    made.end()


@pytest.fixture
def words():
    return WORDS


@pytest.fixture(scope="session")
def launch():
    return ROOT / "launch"


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A repository with a copy of launch/, so that git does not read the real one."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "launch", folder / "launch")
    (folder / "pyproject.toml").write_text("[project]\n")
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    return folder

"""Plays the programs that the launch scripts call; its name decides which one.

Every call is recorded as a line of JSON. The world it plays lies in the folder `$WORLD`: `bin/`
with the links that name it, `calls`, the TPU's `queue` and its hosts' homes `worker0`, `worker1`.
A test calls it a hundred times, so that what few of its parts need is imported there.
"""

import contextlib
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

WORLD = Path(os.environ["WORLD"])
TOOL, ARGV = Path(sys.argv[0]).name, sys.argv[1:]


def take(name: str, default: str = "") -> str:
    """Takes the first line of a script of events; the last one repeats."""
    path = WORLD / name
    if not path.exists():
        return default
    now, *later = path.read_text().splitlines() or [default]
    if later:
        path.write_text("\n".join(later) + "\n")
    return now


def option(name: str) -> str:
    return next(word.split("=", 1)[1] for word in ARGV if word.startswith(f"--{name}="))


# --- a Cloud TPU of two hosts ---------------------------------------------------------------------


def gcloud() -> int:
    import shutil
    import subprocess

    group, verb = ARGV[2:4]
    if group == "queued-resources":
        return {"create": create, "describe": describe, "delete": delete}[verb]()
    if take("unreachable") == "yes":
        return 255
    homes = [WORLD / "worker0", WORLD / "worker1"]
    if option("worker") != "all":
        homes = [homes[int(option("worker"))]]
    for home in homes:
        home.mkdir(exist_ok=True)
    if verb == "scp":
        for home in homes:
            shutil.copy(ARGV[4], home / ARGV[5].split(":", 1)[1])
        return 0
    # As gcloud and ssh do: the words are joined by spaces and read by the login shell.
    line = " ".join(option("command").split(" "))
    return max(subprocess.call(["bash", "-c", line], cwd=it, env=on_host(it)) for it in homes)


def on_host(home: Path) -> dict[str, str]:
    return os.environ | {"HOME": str(home), "USER": "root"}


def create() -> int:
    (WORLD / "queue").write_text(take("lives", "ACTIVE").replace(" ", "\n") + "\n")
    return 0


def describe() -> int:
    import shutil

    if not (WORLD / "queue").exists():
        print("ERROR: (gcloud) NOT_FOUND: Resource was not found", file=sys.stderr)
        return 1
    state = take("queue")
    if state == "SUSPENDED":
        shutil.rmtree(WORLD / "worker0", ignore_errors=True)
        shutil.rmtree(WORLD / "worker1", ignore_errors=True)
    print(state)
    return 0


def delete() -> int:
    (WORLD / "queue").unlink()
    return 0


def sudo() -> int:
    """Maps a path of root into the host's home."""
    import subprocess

    home = os.environ["HOME"]
    (Path(home) / "system").mkdir(exist_ok=True)
    return subprocess.call([word.replace("/etc/systemd", home) for word in ARGV])


def systemctl() -> int:
    import subprocess

    home = Path(os.environ["HOME"])
    unit, code, pid = home / "system/ddpm.service", home / "code", home / "pid"
    verb = ARGV[0]
    if verb in ("restart", "disable") and pid.exists():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid.read_text()), signal.SIGTERM)
        while not code.exists():
            time.sleep(0.01)
    if verb == "restart":
        unit_of = dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE))
        log = unit_of["StandardOutput"].removeprefix("append:")
        code.unlink(missing_ok=True)
        inner = 'trap "" TERM; (trap - TERM; echo $BASHPID >pid; exec "$@"); echo $? >code'
        with open(log, "a") as out:
            service = subprocess.Popen(
                ["bash", "-c", inner, "service", *unit_of["ExecStart"].split(" ")],
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        with open(WORLD / "services", "a") as out:
            out.write(f"{service.pid}\n")
        while not pid.exists():
            time.sleep(0.01)
    if verb == "show":
        assert ARGV[1] == "--property=LoadState,ActiveState,ExecMainStatus"
        print(f"LoadState={'loaded' if unit.exists() else 'not-found'}")
        print(f"ActiveState={'inactive' if code.exists() or not unit.exists() else 'active'}")
        print(f"ExecMainStatus={code.read_text().strip() if code.exists() else 0}")
    return 0


def python() -> int:
    """Plays a host's Python: reports its version, makes environments, installs packages."""
    if ARGV[0].endswith("finished.py"):
        return int(take("finished", "3"))
    if ARGV[0] == "-c":
        made = "ddpm-env" in sys.argv[0]
        return 0 if made or TOOL in take("pythons", "python3.14").split() else 1
    if "venv" in ARGV:
        env = Path(ARGV[-1])
        (env / "bin").mkdir(parents=True)
        for name in ("python", "ddpm"):
            (env / "bin" / name).symlink_to(WORLD / "bin" / "ddpm")
    return 0


# --- Slurm ----------------------------------------------------------------------------------------


def sbatch() -> int:
    """Runs a job at once as Slurm does: a copy of the script, with its options in variables."""
    import shutil

    options, words = {}, list(ARGV)
    while words[0].startswith("--"):
        name, value, *words = words
        options[name[2:]] = value
    script = Path(words.pop(0))
    directives = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", script.read_text(), re.MULTILINE)
    options = dict(directives) | options
    (WORLD / "options").write_text(json.dumps(options))
    copy = WORLD / "slurm_script"
    shutil.copy(script, copy)
    names = {"ntasks-per-node": "NTASKS_PER_NODE", "gpus-per-node": "GPUS_ON_NODE"}
    names["cpus-per-task"] = "CPUS_PER_TASK"
    job = {f"SLURM_{it}": options[name] for name, it in names.items()}
    job |= {"SLURM_JOB_ID": "17", "SLURM_SUBMIT_DIR": os.getcwd()}
    os.execve(copy, [str(copy), *words], os.environ | job)


def srun() -> int:
    os.execvp(ARGV[ARGV.index("--") + 1], ARGV[ARGV.index("--") + 1 :])


def scontrol() -> int:
    if ARGV[0] == "show":
        print(f"JobId=17 JobName=ddpm JobState={take('job', 'RUNNING')} Reason=None")
    return 0


# --- Kubernetes -----------------------------------------------------------------------------------


def kubectl() -> int:
    if ARGV[0] == "patch":
        import site

        site.main()  # -S left this out, for a quick start.
        import yaml

        thing = yaml.safe_load(Path(option("filename")).read_text())
        for change in json.loads(option("patch")):
            *way, last = [it.replace("~1", "/") for it in change["path"].split("/")[1:]]
            at = thing
            for name in way:
                at = at[int(name)] if isinstance(at, list) else at[name]
            at[last] = change["value"]
        print(json.dumps(thing))
    if ARGV[0] == "create":
        (WORLD / "created").write_text(sys.stdin.read())
    return 0


# --- the trainer ----------------------------------------------------------------------------------


def ddpm() -> int:
    """Does the next event of its script: exits with a code, or waits for a signal and saves."""
    event, _, rest = take("trainer", "exit 0").partition(" ")
    if event == "wait":
        got = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: got.append(number))
        note("ready", "")
        while not got:
            time.sleep(0.01)
        time.sleep(0.1)  # A second signal would arrive now.
        note("signals", got)
        print("saved", flush=True)
        return int(rest or 0)
    if event == "step":
        checkpoint = Path(rest) / "checkpoints" / str(len(calls("ddpm")))
        checkpoint.mkdir(exist_ok=True)
        (checkpoint / "checksums.json").touch()
        return 0
    if event == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return int(rest)


def calls(tool: str) -> list[dict]:
    lines = (WORLD / "calls").read_text().splitlines()
    return [call for call in map(json.loads, lines) if call["tool"] == tool]


def note(key: str, value: object) -> None:
    with open(WORLD / "notes", "a") as out:
        out.write(json.dumps({key: value}) + "\n")


def record() -> None:
    names = [it for it in os.environ if it.startswith(("JAX_", "XLA_", "CUDA_"))]
    env = {name: os.environ[name] for name in names}
    with open(WORLD / "calls", "a") as out:
        line = {"tool": TOOL, "argv": ARGV, "home": Path.home().name, "env": env}
        out.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    record()
    as_python = TOOL.startswith("python")
    sys.exit(python() if as_python else globals()[TOOL]())

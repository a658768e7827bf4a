"""Several processes as one run: what they agree on, and how they end together.

Those tests that start real processes are few; `pytest tests/test_distributed.py --long` has more.
"""

import asyncio
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import ddpm_jax
from ddpm_jax.checkpoints import writer
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.data import open_source
from ddpm_jax.data.batches import local_batch
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.runtime import distributed
from ddpm_jax.runtime.distributed import Options, agreement, find
from ddpm_jax.runtime.distributed.channel import Channel
from ddpm_jax.runtime.distributed.connection import Gone
from ddpm_jax.runtime.distributed.server import Server
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.sampling import shards
from ddpm_jax.training.step import state_layout
from tests.tiny import TINY, arrays

ROOT = Path(__file__).parents[2]
LIMIT = 60
"""Seconds after which the others must have ended; starting and compiling may take longer."""


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


# --- finding a place ------------------------------------------------------------------------------


def test_a_process_without_others_is_alone(monkeypatch):
    monkeypatch.setattr("ddpm_jax.runtime.distributed.cluster._on_tpu_vm", lambda: False)
    assert find(Options()) is None
    assert find(Options("host:1", 1, 0)) is None
    # An sbatch script's own shell, and one task of one.
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert find(Options()) is None
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node1")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert find(Options()) is None


def test_a_task_of_slurm_finds_the_others(monkeypatch):
    variables = {
        "SLURM_JOB_ID": "4097",
        "SLURM_STEP_NODELIST": "node[07-09],other1",
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "2",
        "SLURM_LOCALID": "0",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    place = find(Options(timeout=7))
    assert place is not None
    assert place[1:] == (4, 2, 7, True)
    assert place.coordinator.startswith("node07:")


WRONG = {
    "half a place": (Options(coordinator="host:1"), "give all three"),
    "a number too high": (Options("host:1", 2, 2), "from 0 to num_processes - 1, which is 1"),
    "no port": (Options("host", 2, 0), "HOST:PORT"),
    "no time": (Options("host:1", 2, 0, timeout=0), "above 0"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_place_that_is_none_is_refused(wrong):
    options, why = WRONG[wrong]
    with pytest.raises(UserError, match=why):
        find(options)


# --- the channel ----------------------------------------------------------------------------------


class Members:
    """Three processes' ends of a channel, all in this one."""

    def __init__(self, count=3):
        self.address = free_address()
        self.server = Server(self.address, count)
        self.channels = [Channel(self.address, n, count) for n in range(count)]
        self.lost: list[list[Gone]] = [[] for _ in range(count)]
        self.each(lambda channel: channel.join(20))
        for channel, lost in zip(self.channels, self.lost, strict=True):
            channel.listen(lost.append)

    def each(self, do):
        """What `do` gives for every end, all at once."""
        results: list = [None] * len(self.channels)

        def one(n):
            results[n] = do(self.channels[n])

        threads = [threading.Thread(target=one, args=(n,)) for n in range(len(results))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return results

    def close(self):
        for channel in self.channels:
            channel.leave()
        self.server.close()


@pytest.fixture
def members():
    members = Members()
    yield members
    members.close()


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_all_get_what_each_said_in_order(members):
    def say(channel):
        channel.put("a", [channel.process])
        channel.put("b", f"b{channel.process}")
        return channel.get("b"), channel.get("a")

    assert members.each(say) == [(["b0", "b1", "b2"], [[0], [1], [2]])] * 3
    assert members.channels[2].hosts == [socket.gethostname()] * 3


def test_news_are_heard_everywhere_also_by_who_listens_late(members):
    heard = [[], [], []]
    members.channels[1].tell("stop", 15)
    members.channels[2].tell("stop", 2)
    for channel, list_ in zip(members.channels, heard, strict=True):
        channel.on("stop", list_.append)
    until(lambda: all(len(list_) == 2 for list_ in heard))
    assert heard[0] == heard[1] == heard[2]
    assert sorted(heard[0]) == [2, 15]


def test_a_connection_that_closes_is_named_to_the_others(members):
    members.channels[2]._line._connection.shutdown(socket.SHUT_RDWR)
    until(lambda: members.lost[0] and members.lost[1])
    for lost in members.lost[:2]:
        assert (lost[0].process, lost[0].host, lost[0].code) == (2, socket.gethostname(), 1)


def test_who_leaves_says_why_and_a_plain_end_is_no_loss(members):
    members.channels[1].leave()
    members.channels[2].leave(2, "ended: a mistake")
    until(lambda: members.lost[0])
    assert members.lost[0] == [Gone(2, socket.gethostname(), "ended: a mistake", 2)]


def test_a_stranger_changes_nothing(members):
    host, port = members.address.split(":")
    for words in (b"GET / HTTP/1.0\n\n", b'{"hello": "ddpm_jax 1"}\n', b"\xff\n", b""):
        with socket.create_connection((host, int(port))) as stranger:
            stranger.sendall(words)
    assert members.each(lambda channel: channel.put("x", 1) or channel.get("x")) == [[1] * 3] * 3


REFUSED = {
    "a number there already": ([(0, 3), (1, 3), (1, 3)], "process 1 on .* is there already"),
    "another number of processes": ([(0, 3), (1, 2)], "process 1 on .* is one of 2 processes"),
    "one missing": ([(0, 3), (2, 3)], "process 1 of 3 did not come"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_a_wrong_set_up_ends_for_all_with_the_same_words(wrong):
    places, why = REFUSED[wrong]
    address = free_address()
    server = Server(address, 3)
    said: list[str] = []

    def join(process, count):
        channel = Channel(address, process, count)
        try:
            channel.join(1)
        except UserError as error:
            said.append(str(error))
            channel.leave(2, str(error))

    threads = [threading.Thread(target=join, args=place) for place in places]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join(10)
    server.close()
    assert len(said) == len(places)
    assert all(re.search(why, line) for line in said), said


# --- agreeing -------------------------------------------------------------------------------------


@pytest.fixture
def as_each(members, monkeypatch):
    """Calls something as each of three processes, with a group of its own for each thread."""
    local = threading.local()
    monkeypatch.setattr(agreement, "group", _Local(local))

    def call(do):
        def one(channel):
            local.group = agreement.Group()
            local.group.channel = channel
            try:
                return do(channel.process)
            except UserError as error:
                return str(error)

        return members.each(one)

    return call


class _Local:
    def __init__(self, local):
        self._local = local

    def __getattr__(self, name):
        return getattr(self._local.group, name)


def test_the_first_ones_word_is_everyones(as_each):
    assert as_each(lambda n: distributed.first_says(lambda: n + 7)) == [7, 7, 7]

    def fail():
        raise UserError("the folder is gone")

    assert as_each(lambda n: distributed.first_says(fail)) == ["the folder is gone"] * 3


def test_settings_that_differ_are_named_with_their_processes(as_each):
    assert as_each(lambda n: distributed.compare({"a": 1, "b": [n * 0]})) == [None] * 3
    said = as_each(lambda n: distributed.compare({"a": 1, "train.steps": 5 + (n == 1)}))
    on = [f"process {n} ({socket.gethostname()})" for n in range(3)]
    start = f"train.steps is 5 on {on[0]}, {on[2]}, and 6 on {on[1]}; start all processes"
    assert said == [f"{start} with the same"] * 3


def test_who_gives_up_is_not_waited_for(as_each):
    def work(n):
        barriers = distributed.Barriers("saves")
        for broken in (True, True, False):
            barriers.begin()
            barriers.wait("begun")
            if broken and n == 1:
                time.sleep(0.05)  # The others wait for it by now, or come later and never do.
                barriers.give_up()
            elif broken:
                time.sleep(0.05 * n)
                with pytest.raises(distributed.GaveUp):
                    barriers.wait("ended")
            else:
                barriers.wait("ended")
            distributed.gather("saves", broken)
        # As after a failure: another writer, and what was given up stays so.
        barriers = distributed.Barriers("saves")
        barriers.begin()
        barriers.wait("begun")
        return True

    assert as_each(work) == [True] * 3


def test_a_folder_that_process_0_cannot_make_is_awaited_by_none(as_each):
    class Full:
        async def create(self):
            raise OSError("the disk is full")

    def work(n):
        barriers = distributed.Barriers("saves")
        with pytest.raises(distributed.GaveUp if n else OSError):
            asyncio.run(writer._Shared(barriers).create_temporary_path(Full()))
        return True

    assert as_each(work) == [True] * 3


def test_alone_all_is_agreed_at_once():
    assert distributed.gather("x", 3) == [3]
    assert distributed.first_says(lambda: 4) == 4
    distributed.compare({"a": 1})


@pytest.mark.parametrize("wishes", [(1,), (0, 2), (0, 1, 2)])
def test_all_stop_at_one_place_that_none_has_passed(as_each, wishes):
    chance = np.random.default_rng(len(wishes))
    delays = chance.uniform(0, 2e-3, (3, 2000))
    wanted = [0, 0, 0]

    def work(n):
        stop = distributed.Appointment(lambda number: None)
        for place in range(1, 2000):
            time.sleep(delays[n, place])
            if n in wishes and place == 20 + n:
                wanted[n] = place
                stop.want(15)
            if stop.reached():
                assert stop.reached()
                return place
        return None

    stops = as_each(work)
    assert stops[0] is not None
    assert stops == [stops[0]] * 3
    assert stops[0] > min(place for place in wanted if place)


# --- real processes -------------------------------------------------------------------------------

CONFIG = """
from ddpm_jax.config import *

def get_config():
    return Config(
        data=PointsData(size=200),
        model=MlpConfig(width=16, layers=2),
        diffusion=DiffusionConfig(timesteps=5),
        train=TrainConfig(
            steps=50, batch_size=24, log_every=25, save_every=25, keep=2, preview_every=25,
        ),
        sample=SampleConfig(clip=False, num=8, batch_size=8),
    )
"""


STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def none_is_left():
    yield
    for process in STARTED:
        process.kill()
        process.wait()
    STARTED.clear()


class Processes:
    """Some processes of one command, each with a log of its own."""

    def __init__(self, folder: Path, count: int, *command, address=None, also=None, of=None):
        """`also` gives one process more words; `of` says how many there were to be."""
        address = address or free_address()
        env = dict(os.environ, JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES="1", PYTHONUNBUFFERED="1")
        env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        self.logs = [folder / f"{n}.log" for n in range(count)]
        self.all: list[subprocess.Popen] = []
        for n, log in enumerate(self.logs):
            words = [*command, *(also or {}).get(n, ()), "--distributed.coordinator", address]
            words += ["--distributed.num_processes", of or count, "--distributed.process_id", n]
            with log.open("w") as file:
                process = subprocess.Popen(
                    [sys.executable, *map(str, words)], env=env, cwd=ROOT, stdout=file, stderr=file
                )
            self.all.append(process)
            STARTED.append(process)

    def said(self, n=0) -> str:
        return self.logs[n].read_text()

    def until(self, condition, limit=180):
        end = time.monotonic() + limit
        while not condition():
            running = [process.poll() is None for process in self.all]
            assert time.monotonic() < end, [self.said(n) for n in range(len(self.all))]
            assert all(running), [self.said(n) for n in range(len(self.all))]
            time.sleep(0.01)

    def codes(self, limit=180) -> list[int]:
        """Waits for the end of all, and returns their exit codes."""
        end = time.monotonic() + limit
        return [process.wait(max(0.1, end - time.monotonic())) for process in self.all]


@pytest.fixture(scope="module")
def long(request):
    return request.config.getoption("--long")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    return tmp_path


def train(folder, *words, run="run"):
    return ("-m", "ddpm_jax.cli", "train", folder / "config.py", "--workdir", folder / run, *words)


def state_of(run, devices=1):
    checkpoints = Checkpoints(run)
    step = checkpoints.newest_good()
    assert step is not None
    layout = state_layout(build(checkpoints.config(step)), make_mesh(1, jax.devices()[:devices]))
    return checkpoints.restore(step, layout)


def test_several_processes_train_what_one_does(folder, long):
    count = 4 if long else 2
    together = Processes(folder, count, *train(folder))
    assert together.codes() == [0] * count, together.said()
    assert "going on" not in together.said()
    # One voice: what the others print is not this package's.
    assert all("ddpm" not in together.said(n) for n in range(1, count))
    env = dict(os.environ, JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES="1")
    alone = [sys.executable, *map(str, train(folder, run="alone"))]
    subprocess.run(alone, env=env, cwd=ROOT, check=True, capture_output=True, timeout=LIMIT)
    expected = arrays(state_of(folder / "alone"))
    for devices in (1, 2):
        found = arrays(state_of(folder / "run", devices))
        for one, other in zip(expected, found, strict=True):
            scale = np.abs(one).max() if one.size else 1
            np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5 * float(scale))
    for name in ("samples.png", "denoising.gif", "loss.png", "samples/00000025.png"):
        assert (folder / "run" / name).is_file()
    if long:
        # Saved by four, gone on with by two.
        fewer = Processes(folder, 2, *train(folder, "--train.steps", "75"))
        assert fewer.codes() == [0, 0], fewer.said()
        assert "going on from step 50" in fewer.said()


DRAWS = """
import sys
import jax, numpy as np
from ddpm_jax.data import open_source
from ddpm_jax.data.batches import Batches
from ddpm_jax.runtime.distributed import Place, first, joined
from ddpm_jax.experiment import build
from ddpm_jax.runtime.mesh import local_rows, make_mesh, put_batch, replicated
from tests.tiny import TINY

path, _, address, _, count, _, process = sys.argv[1:]
with joined(Place(address, int(count), int(process), 60, False)):
    # Not in the order of the processes.
    mesh, size = make_mesh(1, jax.devices()[::-1]), TINY.train.batch_size
    rows = local_rows(mesh, size)
    assert len(rows) == size // int(count)
    draw = jax.jit(build(TINY).draw, out_shardings=replicated(mesh))
    found = {}
    with Batches(open_source(TINY.data), seed=0, batch_size=size, rows=rows) as batches:
        for step in range(3):
            drawn = draw(put_batch(batches(step), mesh, rows=rows, size=size), step)
            for name, array in drawn._replace(dropout=None)._asdict().items():
                if array is not None:
                    found[f"{name}{step}"] = np.asarray(array)
    if first():
        np.savez(path, **found)
"""


def test_several_processes_draw_the_batches_and_the_noise_of_one(tmp_path):
    (tmp_path / "draws.py").write_text(f"import sys; sys.path.insert(0, '.')\n{DRAWS}")
    together = Processes(tmp_path, 2, tmp_path / "draws.py", tmp_path / "draws.npz")
    assert together.codes() == [0, 0], together.said()
    found = np.load(tmp_path / "draws.npz")
    source, draw = open_source(TINY.data), jax.jit(build(TINY).draw)
    for step in range(3):
        batch = local_batch(source, seed=0, step=step, batch_size=TINY.train.batch_size)
        drawn = draw(batch, step)._replace(dropout=None)
        for name, array in drawn._asdict().items():
            if array is not None:
                np.testing.assert_array_equal(found[f"{name}{step}"], array)


def test_a_killed_process_is_named_all_go_on_and_a_signal_to_one_saves_all(folder, long):
    words = train(folder, "--train.steps", "1000000", "--train.preview_every", "1000000")
    saves = Checkpoints(folder / "run").steps
    for victim in [2, 0, 1] if long else [2]:
        together = Processes(folder, 3, *words)
        together.until(lambda it=together: "img/s" in it.said() and saves())
        together.all[victim].send_signal(signal.SIGKILL)
        codes = together.codes(LIMIT)
        assert codes.pop(victim) == -signal.SIGKILL
        assert codes == [1, 1]
        for n in {0, 1, 2} - {victim}:
            lines = [line for line in together.said(n).splitlines() if line.startswith("ddpm: ")]
            assert len(lines) == 1
            assert lines[0].startswith(f"ddpm: process {victim} on {socket.gethostname()} ")
            assert lines[0].endswith("run the same command again to go on")
            assert "Traceback" not in together.said(n)
    again = Processes(folder, 3, *words)
    again.until(lambda: "img/s" in again.said())
    assert "going on from step " in again.said()
    again.all[1].send_signal(signal.SIGTERM)
    assert again.codes() == [0, 0, 0], again.said()
    step = max(Checkpoints(folder / "run").steps())
    assert f"stopped at step {step}; run the same command again" in again.said()
    # The state that all saved is of one step: its every array is there and whole.
    assert int(state_of(folder / "run").step) == step


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux alone has prlimit")
@pytest.mark.parametrize("victim", [0, 1])
def test_a_save_that_fails_on_one_is_told_and_tried_again_by_all(folder, long, victim):
    if not long:
        pytest.skip("with --long")
    words = ("--train.steps", "1000000", "--train.preview_every", "1000000", "--mesh.fsdp", "2")
    words += ("--model.width", "256", "--train.save_every", "100")
    together = Processes(folder, 2, *train(folder, *words))
    saves = Checkpoints(folder / "run").steps
    together.until(saves)
    pid = together.all[victim].pid
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (32 * 1024, most))
    told = "could not be written (File too large, on "
    together.until(lambda: together.said().count(told) >= 2)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
    before = saves()
    together.until(lambda: saves() != before)
    # Process 0 alone looks after the folder: a file in its place stops none of them either.
    place, aside = folder / "run" / "checkpoints", folder / "run" / "aside"
    place.rename(aside)
    place.write_text("")
    together.until(lambda: "could not be written (File exists, on " in together.said())
    place.unlink()
    aside.rename(place)
    before = saves()
    together.until(lambda: saves() != before)
    together.all[0].send_signal(signal.SIGTERM)
    assert together.codes() == [0, 0]
    assert int(state_of(folder / "run").step) == max(saves())


def test_another_config_on_one_host_is_refused_on_all(folder):
    also = {1: ("--optimizer.learning_rate", "0.5")}
    together = Processes(folder, 2, *train(folder), also=also)
    assert together.codes() == [2, 2]
    host = socket.gethostname()
    for n in (0, 1):
        (line,) = [line for line in together.said(n).splitlines() if "Gloo" not in line]
        assert line.startswith("ddpm: optimizer.learning_rate is 0.0002 on process 0")
        assert f"and 0.5 on process 1 ({host})" in line
    assert not (folder / "run").exists()


def test_a_mistake_on_one_host_ends_all(folder):
    together = Processes(folder, 2, *train(folder), also={1: ("--train.stpes", "3")})
    assert together.codes() == [2, 2]
    for n in (0, 1):
        (line,) = [line for line in together.said(n).splitlines() if "Gloo" not in line]
        assert "unknown setting --train.stpes" in line


def test_a_coordinator_that_never_appears_ends_in_the_stated_time(folder, long):
    words = train(folder, "--distributed.timeout", 2)
    begun = time.monotonic()
    # Process 0 alone, whose peers never come.
    alone = Processes(folder, 1, *words, of=2)
    assert alone.codes() == [2]
    assert "process 1 of 2 did not come to process 0 at 127.0.0.1:" in alone.said()
    assert time.monotonic() - begun < 30
    address = free_address()
    place = ["--distributed.coordinator", address, "--distributed.num_processes", "2"]
    command = [sys.executable, *map(str, words), *place, "--distributed.process_id", "1"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    assert f"found no process 0 at {address} in 2 s (Connection refused)" in found.stderr


def test_a_port_in_use_is_one_line(folder):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        one = Processes(folder, 1, *train(folder), address=address, of=2)
        assert one.codes() == [2]
    assert one.said().count("\n") == 1
    assert f"can't listen at {address}" in one.said()
    assert "Address already in use" in one.said()


# --- many samples ---------------------------------------------------------------------------------


def samples_in(folder) -> np.ndarray:
    paths = sorted(folder.glob("samples-*.npz"))
    return np.concatenate([np.load(path)["samples"] for path in paths])


def test_the_samples_of_a_folder_depend_on_no_number_of_processes_and_no_kill(folder, long):
    alone = train(folder, "--train.steps", "4", "--train.preview_every", "1000")
    assert Processes(folder, 1, *alone).codes() == [0]
    num, size = (2000, 20) if long else (100, 8)

    def sample(count, name, also=None):
        words = ("-m", "ddpm_jax.cli", "sample", folder / "run", "--num", num)
        words += ("--batch_size", size, "--output", folder / name)
        return Processes(folder, count, *words, also=also)

    for count in (1, 2, 3) if long else (1, 2):
        together = sample(count, f"by{count}")
        if count > 1:  # One is killed with some of the files written.
            together.until(lambda n=count: any((folder / f"by{n}").glob("samples-*.npz")))
            together.all[-1].send_signal(signal.SIGKILL)
            assert set(together.codes(LIMIT)) <= {0, 1, -signal.SIGKILL}
            together = sample(count, f"by{count}")
        assert together.codes() == [0] * count, together.said()
        assert f"{num} samples of step 4 in {folder / f'by{count}'}" in together.said()
    whole = samples_in(folder / "by1")
    assert whole.shape == (num, 2)
    for other in folder.glob("by*"):
        np.testing.assert_array_equal(samples_in(other), whole)
        assert not list(other.glob(".samples*"))
    # They are those that a single call draws.
    plain = ddpm_jax.load(folder / "run").sample(num, batch_size=size).samples
    np.testing.assert_allclose(whole, plain, atol=1e-5)


def test_a_folder_of_other_samples_is_left_alone(folder):
    shards._claim(folder / "out", {"seed": 0, "num": 5})
    shards._claim(folder / "out", {"seed": 0, "num": 5})
    with pytest.raises(UserError, match=r"with seed = 0, and these have 1; choose another"):
        shards._claim(folder / "out", {"seed": 1, "num": 5})

"""Real processes as one run: they train what one process does, and end together.

`--long` runs more of them.
"""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import ddpm_jax
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.data import open_source
from ddpm_jax.data.batches import local_batch
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.sampling import shards
from tests.runtime.distributed.processes import (
    CONFIG,
    LIMIT,
    ROOT,
    STARTED,
    Processes,
    free_address,
    state_of,
    train,
)
from tests.tiny import TINY, arrays


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    for process in STARTED:
        process.kill()
        process.wait()
    STARTED.clear()


@pytest.fixture(scope="module")
def long(request):
    return request.config.getoption("--long")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    return tmp_path


def test_several_processes_train_what_one_does(folder, long):
    count = 4 if long else 2
    together = Processes(folder, count, *train(folder))
    assert together.codes() == [0] * count, together.log()
    assert "going on" not in together.log()
    # Only process 0 prints; what the others print does not come from this package.
    assert all("ddpm" not in together.log(n) for n in range(1, count))
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
        # Four processes saved; two continue.
        fewer = Processes(folder, 2, *train(folder, "--train.steps", "75"))
        assert fewer.codes() == [0, 0], fewer.log()
        assert "going on from step 50" in fewer.log()


DRAWS = """
import sys
import jax, numpy as np
from ddpm_jax.data import open_source
from ddpm_jax.data.batches import Batches
from ddpm_jax.runtime.distributed import ProcessSpec, is_first, joined
from ddpm_jax.experiment import build
from ddpm_jax.runtime.mesh import local_rows, make_mesh, shard_batch, replicated
from tests.tiny import TINY

path, _, address, _, count, _, process = sys.argv[1:]
with joined(ProcessSpec(address, int(count), int(process), 60, False)):
    # The devices are not in the order of the processes.
    mesh, size = make_mesh(1, jax.devices()[::-1]), TINY.train.batch_size
    rows = local_rows(mesh, size)
    assert len(rows) == size // int(count)
    draw = jax.jit(build(TINY).draw, out_shardings=replicated(mesh))
    found = {}
    with Batches(open_source(TINY.data), seed=0, batch_size=size, rows=rows) as batches:
        for step in range(3):
            drawn = draw(shard_batch(batches(step), mesh, rows=rows, size=size), step)
            for n, array in enumerate(jax.tree.leaves(drawn._replace(dropout=None))):
                found[f"{step}.{n}"] = np.asarray(array)
    if is_first():
        np.savez(path, **found)
"""


def test_several_processes_draw_the_batches_and_the_noise_of_one(tmp_path):
    (tmp_path / "draws.py").write_text(f"import sys; sys.path.insert(0, '.')\n{DRAWS}")
    together = Processes(tmp_path, 2, tmp_path / "draws.py", tmp_path / "draws.npz")
    assert together.codes() == [0, 0], together.log()
    found = np.load(tmp_path / "draws.npz")
    source, draw = open_source(TINY.data), jax.jit(build(TINY).draw)
    for step in range(3):
        batch = local_batch(source, seed=0, step=step, batch_size=TINY.train.batch_size)
        expected = jax.tree.leaves(draw(batch, step)._replace(dropout=None))
        assert len(expected) == len([name for name in found if name.startswith(f"{step}.")])
        for n, array in enumerate(expected):
            np.testing.assert_array_equal(found[f"{step}.{n}"], array)


def test_a_killed_process_is_named_and_a_signal_to_one_process_saves_on_all(folder, long):
    words = train(folder, "--train.steps", "1000000", "--train.preview_every", "1000000")
    saves = Checkpoints(folder / "run").steps
    for victim in [2, 0, 1] if long else [2]:
        together = Processes(folder, 3, *words)
        together.until(lambda it=together: "img/s" in it.log() and saves())
        together.all[victim].send_signal(signal.SIGKILL)
        codes = together.codes(LIMIT)
        assert codes.pop(victim) == -signal.SIGKILL
        assert codes == [1, 1]
        for n in {0, 1, 2} - {victim}:
            lines = [line for line in together.log(n).splitlines() if line.startswith("ddpm: ")]
            assert len(lines) == 1
            assert lines[0].startswith(f"ddpm: process {victim} on {socket.gethostname()} ")
            assert lines[0].endswith("run the same command again to continue")
            assert "Traceback" not in together.log(n)
    again = Processes(folder, 3, *words)
    again.until(lambda: "img/s" in again.log())
    assert "going on from step " in again.log()
    again.all[1].send_signal(signal.SIGTERM)
    assert again.codes() == [0, 0, 0], again.log()
    step = max(Checkpoints(folder / "run").steps())
    assert f"stopped at step {step}; run the same command again" in again.log()
    # All saved the same step: every array is there and complete.
    assert int(state_of(folder / "run").step) == step


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux has prlimit")
@pytest.mark.parametrize("victim", [0, 1])
def test_a_save_that_fails_on_one_process_is_reported_and_all_try_again(folder, long, victim):
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
    warning = "could not be written (File too large, on "
    together.until(lambda: together.log().count(warning) >= 2)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
    before = saves()
    together.until(lambda: saves() != before)
    # Only process 0 makes the folder: a file in its place stops no process.
    checkpoints, aside = folder / "run" / "checkpoints", folder / "run" / "aside"
    checkpoints.rename(aside)
    checkpoints.write_text("")
    together.until(lambda: "could not be written (File exists, on " in together.log())
    checkpoints.unlink()
    aside.rename(checkpoints)
    before = saves()
    together.until(lambda: saves() != before)
    together.all[0].send_signal(signal.SIGTERM)
    assert together.codes() == [0, 0]
    assert int(state_of(folder / "run").step) == max(saves())


def test_a_config_that_differs_on_one_host_is_refused_on_all(folder):
    also = {1: ("--optimizer.learning_rate", "0.5")}
    together = Processes(folder, 2, *train(folder), also=also)
    assert together.codes() == [2, 2]
    host = socket.gethostname()
    for n in (0, 1):
        (line,) = [line for line in together.log(n).splitlines() if "Gloo" not in line]
        assert line.startswith("ddpm: optimizer.learning_rate is 0.0002 on process 0")
        assert f"and 0.5 on process 1 ({host})" in line
    assert not (folder / "run").exists()


def test_a_mistake_on_one_host_ends_all_processes(folder):
    together = Processes(folder, 2, *train(folder), also={1: ("--train.stpes", "3")})
    assert together.codes() == [2, 2]
    for n in (0, 1):
        (line,) = [line for line in together.log(n).splitlines() if "Gloo" not in line]
        assert "unknown setting --train.stpes" in line


def test_processes_that_wait_for_others_end_after_the_timeout(folder, long):
    words = train(folder, "--distributed.timeout", 2)
    begun = time.monotonic()
    # Process 0 waits for a process 1 that never starts.
    alone = Processes(folder, 1, *words, of=2)
    assert alone.codes() == [2]
    assert "process 1 of 2 did not connect to process 0 at 127.0.0.1:" in alone.log()
    assert time.monotonic() - begun < 30
    address = free_address()
    spec = ["--distributed.coordinator", address, "--distributed.num_processes", "2"]
    command = [sys.executable, *map(str, words), *spec, "--distributed.process_id", "1"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    assert f"found no process 0 at {address} in 2 s (Connection refused)" in found.stderr


def test_a_port_in_use_is_one_line(folder):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        one = Processes(folder, 1, *train(folder), address=address, of=2)
        assert one.codes() == [2]
    assert one.log().count("\n") == 1
    assert f"can't listen at {address}" in one.log()
    assert "Address already in use" in one.log()


# --- many samples ---------------------------------------------------------------------------------


def samples_in(folder) -> np.ndarray:
    paths = sorted(folder.glob("samples-*.npz"))
    return np.concatenate([np.load(path)["samples"] for path in paths])


def test_neither_the_number_of_processes_nor_a_kill_changes_the_samples_of_a_folder(folder, long):
    if not long:
        pytest.skip("--long: a minute; tests/sampling/test_shards.py has the files themselves")
    alone = train(folder, "--train.steps", "4", "--train.preview_every", "1000")
    assert Processes(folder, 1, *alone).codes() == [0]
    num, size = 2000, 20

    def sample(count, name, also=None):
        words = ("-m", "ddpm_jax.cli", "sample", folder / "run", "--num", num)
        words += ("--batch_size", size, "--output", folder / name)
        return Processes(folder, count, *words, also=also)

    for count in (1, 2, 3):
        together = sample(count, f"by{count}")
        if count > 1:  # One process is killed after some files were written.
            together.until(lambda n=count: any((folder / f"by{n}").glob("samples-*.npz")))
            together.all[-1].send_signal(signal.SIGKILL)
            assert set(together.codes(LIMIT)) <= {0, 1, -signal.SIGKILL}
            together = sample(count, f"by{count}")
        assert together.codes() == [0] * count, together.log()
        assert f"{num} samples of step 4 in {folder / f'by{count}'}" in together.log()
    whole = samples_in(folder / "by1")
    assert whole.shape == (num, 2)
    for other in folder.glob("by*"):
        np.testing.assert_array_equal(samples_in(other), whole)
        assert not list(other.glob(".samples*"))
    # A single call draws the same samples. Four timesteps leave no pure noise: told, rightly.
    with pytest.warns(UserWarning, match="x_T is not noise"):
        plain = ddpm_jax.load(folder / "run").sample(num, batch_size=size).samples
    np.testing.assert_allclose(whole, plain, atol=1e-5)
    # Nor do they change what metrics say of them.
    found = []
    for count in (1, 3) if long else (1, 2):
        result = folder / f"judged{count}.json"
        words = ("-m", "ddpm_jax.cli", "evaluate", folder / "run", "--num", num)
        words += ("--batch_size", size, "--output", result)
        together = Processes(folder, count, *words)
        assert together.codes() == [0] * count, together.log()
        found.append(json.loads(result.read_text()))
    assert found[0] == found[1]
    assert found[0]["values"]["sliced_wasserstein"] > 0
    assert not list((folder / "run").glob("evaluation-*"))


def test_a_folder_of_other_samples_is_left_alone(folder):
    shards._claim(folder / "out", {"format": "npz", "seed": 0, "num": 5})
    shards._claim(folder / "out", {"format": "npz", "seed": 0, "num": 5})
    with pytest.raises(UserError, match=r"with seed = 0, and these have 1; choose another"):
        shards._claim(folder / "out", {"format": "npz", "seed": 1, "num": 5})

"""Runs in a bucket behave as local ones do; a local server plays the bucket."""

import os
import random
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event  # type: ignore

import ddpm_jax
from ddpm_jax import cli
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.checkpoints.snapshots import snapshots_of
from ddpm_jax.config import (
    Config,
    DiffusionConfig,
    MlpConfig,
    PointsData,
    SampleConfig,
    TrainConfig,
)
from ddpm_jax.data.pixels import to_pixels
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.files import (
    StoreError,
    files_below,
    remote,
    spool,
    storage_path,
)
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.sampling.files import read_pixels
from ddpm_jax.sampling.shards import ShardSource, sample_pixels, sample_shards
from ddpm_jax.training.logging.run_logger import RunLogger, read_events, read_rows
from ddpm_jax.training.step import state_layout
from ddpm_jax.training.train import train
from tests.sampling.test_formats import NUM, run_of, truth
from tests.tiny import assert_same, changed

CONFIG = Config(
    data=PointsData(size=64),
    model=MlpConfig(width=8, layers=1),
    diffusion=DiffusionConfig(schedule="cosine", timesteps=4),
    train=TrainConfig(
        steps=12,
        batch_size=8,
        averages={"ema": "ema", "long": "power --sigma_rel 0.2"},
        log_every=2,
        save_every=4,
        snapshot_every=3,
        preview_every=6,
        keep=2,
    ),
    sample=SampleConfig(clipping="none", num=8, batch_size=8),
)


def state_of(run, step):
    checkpoints = Checkpoints(run)
    assert checkpoints.newest_good(step) == step
    layout = state_layout(build(checkpoints.config(step)), make_mesh(1))
    return checkpoints.restore(step, layout)


def names(folder):
    return sorted(item.relative_to(folder).as_posix() for item in files_below(folder))


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A run on a disk, without interruption."""
    folder = tmp_path_factory.mktemp("runs") / "local"
    train(CONFIG, folder)
    return folder


@pytest.fixture(scope="module")
def run(bucket, tmp_path_factory):
    """The same run in the bucket, killed while it wrote checkpoint 8, and started again."""
    run = storage_path("gs://bucket/a run")
    here = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(here))
        patch.chdir(here)
        train(changed(CONFIG, train={"steps": 8}), str(run))
        (run / "checkpoints/8/checksums.json").unlink()
        (run / "checkpoints/8/state/half").write_bytes(b"half a fi")
        train(CONFIG, str(run))
        assert list(here.iterdir()) == []
    return run


# --- a run ----------------------------------------------------------------------------------------


def test_a_run_in_a_bucket_ends_as_a_local_one_bit_for_bit(run, local):
    assert Checkpoints(run).steps() == Checkpoints(local).steps() == [8, 12]
    for step in (8, 12):
        assert_same(state_of(run, step), state_of(local, step))
    kept, expected = (read_rows(it / "metrics.jsonl") for it in (run, local))
    assert [(row["step"], row["loss"]) for row in kept] == [
        (row["step"], row["loss"]) for row in expected
    ]
    starts = [row["step"] for row in read_events(run / "events.jsonl") if row["event"] == "start"]
    assert starts == [0, 4]
    for name in ("config.json", "samples.png", "denoising.gif", "loss.png", "samples/00000006.png"):
        assert (run / name).read_bytes() == (local / name).read_bytes(), name


def test_the_bucket_holds_what_the_disk_holds(run, local):
    def outline(folder):
        # TensorStore names its data files at random, and TensorBoard names its files by the time.
        cut = {name.split("/state/")[0].split("/events.")[0] for name in names(folder)}
        return cut - {".lock"}

    assert outline(run) == outline(local)


def test_tensorboard_has_every_row_and_picture(run):
    scalars, pictures = [], []
    for path in (run / "tensorboard").iterdir():
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            for value in event.summary.value:
                if value.tag == "loss":
                    scalars.append(event.step)
                if value.HasField("image"):
                    pictures.append(event.step)
            data = data[16 + length :]
    # Steps 6 and 8 ran twice; the second start hides the first one's rows.
    assert sorted(scalars) == [2, 4, 6, 6, 8, 8, 10, 12]
    assert sorted(pictures) == [6, 6, 12]


def test_rows_are_uploaded_before_their_checkpoint(run, bucket):
    first = bucket.put.index("a run/checkpoints/4/checksums.json")
    for name in ("metrics.jsonl", "events.jsonl", "tensorboard/events"):
        assert any(put.startswith(f"a run/{name}") for put in bucket.put[:first]), name


def test_an_incomplete_checkpoint_does_not_count_and_the_next_save_removes_it(run, tmp_path):
    torn = run / "checkpoints/99"
    (torn / "state/d/abc").write_bytes(b"abc")
    lines = []
    checkpoints = Checkpoints(run, report=lines.append)
    assert checkpoints.steps() == [8, 12]
    assert checkpoints.newest_good() == 12
    assert lines == []
    with pytest.raises(UserError, match="no checkpoint 99; it has 8, 12"):
        checkpoints.newest_good(99)
    checkpoints._commit.begin(16)
    assert not torn.exists()
    assert checkpoints.steps() == [8, 12]


@pytest.mark.parametrize("ending", ["manifest.ocdbt", "meta.json", "_METADATA"])
def test_a_changed_object_is_named_and_the_older_checkpoint_used(run, ending):
    path = next(it for it in files_below(run / "checkpoints/12") if str(it).endswith(ending))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damage in (lambda: path.write_bytes(bytes(flipped)), path.unlink):
        damage()
        lines = []
        assert Checkpoints(run, report=lines.append).newest_good() == 8
        assert lines[0].startswith("checkpoint gs://bucket/a run/checkpoints/12 is damaged: ")
        assert ending in lines[0]
        path.write_bytes(whole)
    assert Checkpoints(run).newest_good() == 12


def test_checksums_are_written_last_and_removed_first(bucket, local):
    checkpoints, state = Checkpoints("gs://bucket/copy"), state_of(local, 12)
    for step in (4, 8):
        bucket.asked.clear()
        checkpoints.save(step, state, CONFIG, keep=1, keep_every=None)
        checkpoints.wait()
        assert bucket.put[-1] == f"copy/checkpoints/{step}/checksums.json"
    removed = [
        index
        for index, (method, path) in enumerate(bucket.asked)
        if method == "DELETE" and "checkpoints%2F4%2F" in path
    ]
    assert bucket.asked[removed[0]][1].endswith("checksums.json")
    assert len(removed) > 5
    # It is removed before the other objects are even listed.
    assert ("GET", "/storage/v1/b/bucket/o") in bucket.asked[removed[0] : removed[1]]
    assert checkpoints.steps() == [8]
    assert checkpoints.newest_good() == 8
    checkpoints.close()


# --- the commands ---------------------------------------------------------------------------------


def test_a_run_is_loaded_and_sampled_from(run, local):
    ours, theirs = (ddpm_jax.load(it) for it in ("gs://bucket/a run", local))
    assert ours.step == 12
    np.testing.assert_array_equal(ours.sample(8).samples, theirs.sample(8).samples)


def test_a_length_is_made_of_snapshots_in_a_bucket(run, local):
    assert snapshots_of(run).steps() == snapshots_of(local).steps() == [3, 6, 9, 12]
    ours, theirs = (ddpm_jax.load(it, ema_length=0.195) for it in ("gs://bucket/a run", local))
    assert_same(ours.params, theirs.params)


def test_the_commands_work_on_it(run, capsys):
    words = {
        "info": ["--json"],
        "plot": ["loss", "--output", "gs://bucket/pictures/loss.png"],
        "evaluate": ["--json"],
    }
    for command, rest in words.items():
        assert cli.main([command, str(run), *rest]) == 0, capsys.readouterr()
    assert (run.parent / "pictures/loss.png").read_bytes()[:4] == b"\x89PNG"


def test_shards_are_written_to_a_bucket_and_completed_later(run, capsys):
    words = ["sample", str(run), "--num", "20", "--output", "gs://bucket/shards"]
    assert cli.main(words) == 0
    folder = storage_path("gs://bucket/shards")
    assert names(folder) == [*(f"samples-0000{k}.npz" for k in range(3)), "samples.json"]
    second = folder / "samples-00001.npz"
    before = second.read_bytes()
    second.unlink()
    assert cli.main(words) == 0
    assert second.read_bytes() == before
    assert cli.main([*words, "--seed", "1"]) == 2
    assert "holds samples with seed = 0" in capsys.readouterr().err


@pytest.mark.usefixtures("bucket")
def test_pictures_and_arrays_for_others_are_written_to_a_bucket():
    pictures, arrays = (storage_path(f"gs://bucket/{name}") for name in ("png", "some/it.npz"))
    sample_shards(run_of(), pictures, NUM, format="png")
    sample_pixels(run_of(), arrays, NUM)
    assert names(arrays.parent) == ["it.npz"]
    found = ShardSource(pictures).gather(np.arange(NUM))
    np.testing.assert_array_equal(found.examples, to_pixels(truth()))
    np.testing.assert_array_equal(read_pixels(arrays)["samples"], to_pixels(truth()))
    np.testing.assert_array_equal(read_pixels(arrays)["labels"], np.asarray(found.labels))


def test_a_supervisor_sees_whether_it_is_finished(run, tmp_path):
    finished = runpy.run_path("launch/finished.py")["finished"]
    assert finished(str(run)) is True
    mark = run / "checkpoints/12/checksums.json"
    whole = mark.read_bytes()
    mark.unlink()
    assert finished(str(run)) is False
    mark.write_bytes(whole)
    assert finished("gs://bucket/none") is None
    assert finished("gs://nowhere/none") is None


# --- what goes wrong ------------------------------------------------------------------------------

COMMANDS = {
    "train": ["train", "configs/swiss_roll.py", "--smoke", "--workdir", "{}/run"],
    "sample": ["sample", "{}/run"],
    "shards": ["sample", "gs://bucket/a run", "--output", "{}/shards"],
    "picture": ["sample", "gs://bucket/a run", "--output", "{}/it.png"],
    "info": ["info", "{}/run"],
    "plot": ["plot", "{}/run", "loss"],
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("where", "advice"),
    [
        ("gs://nowhere", "make it: gcloud storage buckets create gs://nowhere"),
        (
            "gs://closed",
            "gs://closed refuses this account; give it access: gcloud storage buckets",
        ),
        ("s3://bucket", "a folder must be local, or gs://BUCKET/PATH"),
    ],
)
def test_a_bucket_that_can_not_be_used_is_one_line_at_once(
    name, where, advice, run, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(Path(cli.__file__).parents[2] / "configs")
    assert cli.main([word.format(where) for word in COMMANDS[name]]) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1, err
    assert advice in err
    assert "compil" not in out + err
    assert [item.name for item in tmp_path.iterdir()] == ["configs"]


def test_a_missing_folder_is_named(bucket, capsys):
    assert cli.main(["sample", "gs://bucket/none"]) == 2
    assert "gs://bucket/none does not exist; train first" in capsys.readouterr().err
    assert cli.main(["info", "gs://bucket/none"]) == 2
    assert "gs://bucket/none does not exist" in capsys.readouterr().err
    with pytest.raises(UserError, match="names no bucket"):
        storage_path("gs://")


def test_a_bucket_that_refuses_for_a_while_costs_only_warnings(bucket, local, capsys, monkeypatch):
    run, row = storage_path("gs://bucket/refused"), RunLogger.row

    def shuts_and_opens(self, step, values):
        shut = 4 <= step < 8
        bucket.refuses = lambda method, path: shut and path.startswith("/upload")
        row(self, step, values)

    monkeypatch.setattr(RunLogger, "row", shuts_and_opens)
    lines = []
    train(CONFIG, run, report=lines.append)
    said = "\n".join(lines)
    assert "Traceback" not in said + capsys.readouterr().err
    assert said.count("the checkpoint of step 4 could not be written (gs://bucket refuses") == 1
    assert said.count("the preview of step 6 was not written: gs://bucket refuses") == 1
    assert [row["step"] for row in read_rows(run / "metrics.jsonl")] == [2, 4, 6, 8, 10, 12]
    assert "save failed" in [row["event"] for row in read_events(run / "events.jsonl")]
    assert Checkpoints(run).steps() == [8, 12]
    assert_same(state_of(run, 12), state_of(local, 12))


def test_rows_are_uploaded_in_the_background_and_failed_ones_later(bucket, monkeypatch):
    monkeypatch.setattr(spool, "_SECONDS", 0.02)
    run = storage_path("gs://bucket/rows")
    lines = []
    logger = RunLogger(run, start=0, total=9, report=lines.append)
    values = {"loss": 1.0, "grad_norm": 1.0, "images_per_s": 1.0}

    def wait_for(condition):
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def uploaded():
        return [row["step"] for row in read_rows(run / "metrics.jsonl")]

    logger.row(1, values)
    wait_for(lambda: uploaded() == [1])
    bucket.refuses = lambda method, path: method == "POST"
    logger.row(2, values)
    wait_for(lambda: any("can't be written" in line for line in lines))
    logger.row(3, values)
    time.sleep(0.1)
    assert sum("can't be written" in line for line in lines) == 1
    bucket.refuses = lambda method, path: False
    wait_for(lambda: uploaded() == [1, 2, 3])
    logger.close()
    # The next start removes the rows after its own step, and appends to the events.
    again = RunLogger(run, start=1, total=9)
    again.close()
    assert uploaded() == [1]
    assert [row["event"] for row in read_events(run / "events.jsonl")] == ["start", "start"]


def test_a_store_that_fails_in_restoring_is_one_line(run, bucket):
    checkpoints = Checkpoints(run)
    layout = state_layout(build(checkpoints.config(12)), make_mesh(1))
    bucket.refuses = lambda method, path: "%2Fd%2F" in path
    with pytest.raises(StoreError, match=r"/12 can't be read \(gs://bucket refuses this account"):
        checkpoints.restore(12, layout)
    # A refusal is not a damaged checkpoint.
    with pytest.raises(StoreError, match="refuses"):
        checkpoints.newest_good()


def test_a_failed_removal_of_old_checkpoints_keeps_the_new_one(bucket, local):
    lines = []
    checkpoints = Checkpoints("gs://bucket/pruning", report=lines.append)
    state = state_of(local, 12)
    checkpoints.save(4, state, CONFIG, keep=1, keep_every=None)
    checkpoints.wait()
    bucket.refuses = lambda method, path: method == "DELETE" and "%2F4%2F" in path
    checkpoints.save(8, state, CONFIG, keep=1, keep_every=None)
    checkpoints.join()
    bucket.refuses = lambda method, path: False
    assert checkpoints.problem() is None
    assert len(lines) == 1
    assert "can't be removed" in lines[0]
    assert "refuses this account" in lines[0]
    assert checkpoints.newest_good() == 8
    checkpoints.close()


def test_no_credentials_are_printed_or_written(run, bucket, capfd, tmp_path, monkeypatch):
    """Checks the login of this module; `strangers` shows that every request needed it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for words in COMMANDS.values():
        cli.main([word.format("gs://closed") for word in words])
    assert cli.main(["sample", str(run), "--output", "it.npz"]) == 0
    said = "".join(capfd.readouterr()).encode()
    assert b"samples of step 12" in said
    written = [said]
    written += [item.read_bytes() for item in files_below(storage_path("gs://bucket"))]
    written += [item.read_bytes() for item in files_below(tmp_path)]
    assert len(written) > 50
    assert bucket.strangers == []
    assert bucket.login.read_bytes().count(bucket.secrets[1]) == 1
    for text in written:
        assert not any(secret in text for secret in bucket.secrets)


def test_without_gcsfs_the_extra_is_named(bucket, monkeypatch, capsys):
    remote._store.cache_clear()
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    assert cli.main(["sample", "gs://bucket/a run"]) == 2
    assert capsys.readouterr().err == "ddpm: gs:// needs gcsfs: pip install 'ddpm_jax[gs]'\n"
    remote._store.cache_clear()


def test_no_client_is_imported_for_a_local_folder():
    code = (
        "import sys, ddpm_jax.files as files, ddpm_jax.cli as cli; cli.main(['--help']);"
        "files.storage_path('runs/a');"
        "sys.exit(any(name in sys.modules for name in ('gcsfs', 'fsspec', 'aiohttp', 'etils')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


# --- kills ----------------------------------------------------------------------------------------


def test_killed_at_random_moments_it_ends_bit_for_bit_the_same(request, bucket, local, tmp_path):
    if not request.config.getoption("--long"):
        pytest.skip("with --long")
    (tmp_path / "config.py").write_text(
        "from tests.files.test_object_store import CONFIG\ndef get_config():\n    return CONFIG\n"
    )
    run, chance = storage_path("gs://bucket/killed"), random.Random(0)
    command = [sys.executable, "-m", "ddpm_jax.cli", "train", str(tmp_path / "config.py")]
    env = dict(os.environ, JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES="8")
    for step in (4, 8):
        process = subprocess.Popen(
            [*command, "--workdir", str(run)], env=env, stderr=subprocess.PIPE, text=True
        )
        while not any(saved >= step - 4 for saved in [0, *Checkpoints(run).steps()]):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 3))
        process.send_signal(signal.SIGKILL)
        assert "Traceback" not in process.communicate()[1]
    train(CONFIG, run)
    assert_same(state_of(run, 12), state_of(local, 12))
    kept, expected = (read_rows(it / "metrics.jsonl") for it in (run, local))
    assert [row["loss"] for row in kept] == [row["loss"] for row in expected]

"""Checkpoints of older formats: their arrays get today's names and layouts, and nothing is lost."""

import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from einops import rearrange

import ddpm_jax
from ddpm_jax import config as configs
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.checkpoints.commit import commit_in
from ddpm_jax.checkpoints.lifting import sources
from ddpm_jax.checkpoints.manifest import by_name, keystr
from ddpm_jax.config import format_0 as step
from ddpm_jax.config import migrations
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.runtime import mesh as meshes
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.training.step import state_layout
from ddpm_jax.training.train import train
from tests.tiny import TINY, StepLoop, assert_same, changed

RUNS = Path(__file__).parents[3] / "shared" / "runs"
NETWORKS = [
    "digits",
    "smoke/cifar10",
    "smoke/fashion_mnist",
    "smoke/mnist_t10_conditional",
    "smoke/single_image",
    "smoke/swiss_roll",
]


def rewrite_meta(run, step, change):
    """Edits meta.json as if the checkpoint had been written so."""
    folder = run / "checkpoints"
    (folder / str(step)).rename(folder / f"{step}.tmp")
    path = folder / f"{step}.tmp" / "meta.json"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))
    commit_in(folder).end(step)


@pytest.fixture(scope="module")
def state():
    trainer = StepLoop()
    return jax.tree.map(np.asarray, trainer.run(trainer.init(), 2)[0])


@pytest.fixture
def format_0(state, tmp_path):
    """A run folder with a checkpoint under the names of format 0."""
    old = {
        "step": state.step,
        "params": state.params,
        "ema": state.ema["ema"],
        "opt_state": state.opt_state,
        "bad": np.asarray(3, np.int32),
    }
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, old, TINY, keep=None, keep_every=None)
    checkpoints.wait()
    checkpoints.close()

    def age(meta):
        del meta["format"]
        # The tiny config has today's settings; of those, arrays are lifted by the network alone.
        meta["config"] = {"model": meta["config"]["model"]}

    rewrite_meta(tmp_path, 2, age)
    return tmp_path


@pytest.fixture
def read_config(monkeypatch):
    """Lets the tiny config, which has today's settings, pass for one of format 0."""
    monkeypatch.setattr(Checkpoints, "config", lambda self, step: TINY)


@pytest.mark.parametrize(("devices", "fsdp"), [(1, 1), (8, 4)])
def test_format_0_becomes_todays_state_in_its_shards(format_0, state, monkeypatch, devices, fsdp):
    monkeypatch.setattr(meshes, "_SMALLEST_SPLIT", 1)
    config = changed(TINY, mesh={"fsdp": fsdp})
    layout = state_layout(build(config), make_mesh(fsdp, jax.devices()[:devices]))
    restored = Checkpoints(format_0).restore(2, layout)
    assert_same(restored, state._replace(nonfinite=np.asarray(3, np.int32)))
    for leaf, aim in zip(jax.tree.leaves(restored), jax.tree.leaves(layout), strict=True):
        assert leaf.sharding == aim.sharding


@pytest.mark.usefixtures("read_config")
def test_an_average_of_format_0_is_loaded_alone(format_0, state, monkeypatch):
    read, seen = Checkpoints._read, []

    def watched(self, step, item):
        arrays = jax.tree.leaves_with_path(item)
        seen.extend(keystr(path) for path, leaf in arrays if leaf is not ocp.PLACEHOLDER)
        return read(self, step, item)

    monkeypatch.setattr(Checkpoints, "_read", watched)
    assert_same(ddpm_jax.load(format_0).params, state.ema["ema"])
    assert seen
    assert all(name.startswith("ema.") for name in seen)
    assert_same(ddpm_jax.load(format_0, params="raw").params, state.params)


TO_COME = {
    "a format": ({"format": migrations.FORMAT + 1}, f"format is {migrations.FORMAT + 1}, and ddpm"),
    "a format of another type": ({"format": "2"}, "format is '2'; it must be a whole number"),
    "a setting": ({"config": {"train": {"rhythm": 3}}}, "unknown setting train.rhythm"),
    "settings elsewhere": ({"config": None}, "no config in its meta.json"),
}


@pytest.mark.parametrize("change", TO_COME)
def test_a_checkpoint_of_a_newer_version_is_named_as_such_in_a_line(change, format_0):
    changes, says = TO_COME[change]
    newer = {"format": migrations.FORMAT, "versions": {"ddpm_jax": "99.1"}}
    rewrite_meta(format_0, 2, lambda meta: meta.update({**newer, **changes}))
    checkpoints = Checkpoints(format_0)
    readers = [checkpoints.config, lambda step: ddpm_jax.load(format_0, checkpoint=step)]
    if change != "a setting":
        readers.append(lambda step: checkpoints.restore(step, {"params": {}}))
    for read in readers:
        with pytest.raises(UserError, match=re.escape(says)) as told:
            read(2)
        assert len(str(told.value).splitlines()) == 1
        if change != "settings elsewhere":
            assert "checkpoints/2 of ddpm_jax 99.1: " in str(told.value)


def test_the_arrays_that_a_wanted_one_is_made_of_are_found():
    def fuse(arrays):
        return {"qk": jnp.concatenate([arrays["q"], arrays["k"]]), "v": 2 * arrays["v"]}

    shapes = {name: jax.ShapeDtypeStruct((2,), jnp.float32) for name in "qkv"}
    for wanted, expected in (("qk", ["k", "q"]), ("v", ["v"]), ("none", [])):
        found = sources(shapes, fuse, wanted=wanted.__eq__)
        assert found == expected


# --- the kernels of strided convolutions -------------------------------------------------------


def conv2x2(x, kernel):
    height, width = x.shape[1] - 1, x.shape[2] - 1
    taps = np.ndindex(2, 2)
    return np.sum([x[:, p : p + height, q : q + width] @ kernel[p, q] for p, q in taps], axis=0)


def padded(x):
    return np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def test_the_unfolded_kernel_of_a_downsampling_convolves_with_stride_2():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(1, 6, 4, 3)), rng.normal(size=(2, 2, 12, 5))
    blocks = rearrange(padded(x), "b (y i) (x j) c -> b y x (i j c)", i=2, j=2)
    old = conv2x2(blocks, kernel)
    unfolded = step.unfold_downsampling(kernel)
    assert unfolded.shape == (4, 4, 3, 5)
    new = np.zeros_like(old)
    for y, x_, u, v in np.ndindex(3, 2, 4, 4):
        new[:, y, x_] += padded(x)[:, 2 * y + u, 2 * x_ + v] @ unfolded[u, v]
    np.testing.assert_allclose(new, old, rtol=1e-12)


def test_the_unfolded_kernel_of_an_upsampling_convolves_transposed():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(1, 3, 2, 3)), rng.normal(size=(2, 2, 3, 20))
    blocks = conv2x2(padded(x), kernel)
    old = rearrange(blocks, "b y x (i j c) -> b (y i) (x j) c", i=2, j=2)[:, 1:-1, 1:-1]
    unfolded = step.unfold_upsampling(kernel)
    assert unfolded.shape == (4, 4, 3, 5)
    new = np.zeros((1, 8, 6, 5))
    for a, b, u, v in np.ndindex(3, 2, 4, 4):
        new[:, 2 * a + 3 - u, 2 * b + 3 - v] += x[:, a, b] @ unfolded[u, v]
    np.testing.assert_allclose(new[:, 1:-1, 1:-1], old, rtol=1e-12)


def test_the_kernels_are_found_in_parameters_averages_and_moments():
    names = [
        f"{field}.{name}"
        for field in ("params", "ema.ema", "opt_state.1.mu", "opt_state.1.nu")
        for name in ("down_0.conv.kernel", "up_1.conv.kernel", "down_0.conv.bias", "up_1.bias")
    ]
    shapes = {"down_0.conv.kernel": (2, 2, 8, 2), "up_1.conv.kernel": (2, 2, 2, 8)}
    arrays = {name: jnp.ones(shapes.get(".".join(name.split(".")[-3:]), (2,))) for name in names}
    for kind, expected in (("small_unet", (4, 4, 2, 2)), ("unet", None)):
        lifted = step.unfold_strided_kernels(arrays, {"model": {"kind": kind}})
        for name, shape in lifted.items():
            same = expected is None or not name.endswith("conv.kernel")
            assert shape.shape == (arrays[name].shape if same else expected)


# --- the runs that were kept -------------------------------------------------------------------

kept = pytest.mark.skipif(not RUNS.is_dir(), reason=f"{RUNS} is not there")


@kept
@pytest.mark.parametrize("name", NETWORKS)
def test_a_kept_run_loads_bit_for_bit(name):
    folder = RUNS / name
    run = ddpm_jax.load(folder)
    plain = json.loads((folder / "config.json").read_text())
    with np.load(folder / "ema.npz") as saved:
        old = {f"ema.{key.replace('/', '.')}": saved[key] for key in saved.files}
    expected = migrations.lift_arrays(old, plain, 0)
    found = by_name({"ema.ema": run.params})
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array)


@kept
@pytest.mark.parametrize("name", NETWORKS)
def test_all_of_a_kept_run_fits_todays_training_state(name):
    checkpoints = Checkpoints(RUNS / name)
    step = checkpoints.newest_good()
    assert step is not None
    layout = state_layout(build(checkpoints.config(step)), make_mesh(1, jax.devices()[:1]))
    assert checkpoints.difference(step, layout) is None


@kept
@pytest.mark.parametrize("name", NETWORKS)
def test_a_kept_run_goes_on(name, tmp_path, monkeypatch, request):
    """Compiling the larger networks takes most of a minute each: they go on with --long."""
    if name != "smoke/swiss_roll" and not request.config.getoption("--long"):
        pytest.skip("with --long")
    shutil.copytree(RUNS / name, tmp_path / "run")
    monkeypatch.setenv("TFDS_DATA_DIR", str(RUNS.parent / "data" / "tfds"))
    config = ddpm_jax.load(RUNS / name).config
    steps = config.train.steps + 2 * config.train.steps_per_dispatch
    longer = configs.override(config, {"train.steps": steps, "train.preview_every": None})
    monkeypatch.setattr("ddpm_jax.training.pictures.Pictures.finish", lambda self, state: None)
    result = train(longer, tmp_path / "run", mesh=make_mesh(1, jax.devices()[:1]))
    assert result.step == steps
    assert Checkpoints(tmp_path / "run").newest_good() == steps


@kept
@pytest.mark.filterwarnings("ignore:x_T is not noise")
@pytest.mark.parametrize("name", ["digits", "smoke/single_image", "smoke/swiss_roll"])
def test_a_kept_run_samples_what_it_sampled(name):
    run = ddpm_jax.load(RUNS / name)
    with np.load(RUNS / name / "samples.npz") as saved:
        expected = dict(saved)
    size = 20 if name == "digits" else 4
    found = run.sample(len(expected["samples"]), seed=7, batch_size=size)
    np.testing.assert_allclose(found.samples, expected["samples"], atol=1e-4)
    if "labels" in expected:
        np.testing.assert_array_equal(found.labels, expected["labels"])

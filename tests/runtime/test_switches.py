"""The same run under any of JAX's global switches: the same bits, or one line."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.config import (
    Config,
    DiffusionConfig,
    MlpConfig,
    PointsData,
    SampleConfig,
    TrainConfig,
)
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.runtime.mesh import all_devices, make_mesh
from ddpm_jax.runtime.random import sample_keys, stream_key
from ddpm_jax.runtime.switches import require_compiling
from ddpm_jax.sampling.chain import SampleProgram
from ddpm_jax.training.train import _what_must_agree, train
from ddpm_jax.typing import Batch

CONFIG = Config(
    data=PointsData(size=20),
    model=MlpConfig(width=4, layers=1, num_classes=2),
    diffusion=DiffusionConfig(schedule="cosine", timesteps=6),
    train=TrainConfig(steps=2, batch_size=4, label_dropout=0.5),
    sample=SampleConfig(clipping="none", num=2),
)


@contextlib.contextmanager
def switch(name, value):
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


def all_that_is_random():
    """Initial parameters, a step's draws and loss, keys, and samples: NumPy arrays."""
    experiment = build(CONFIG)
    with jax.transfer_guard("allow"):  # What a program of ours is given is the caller's affair.
        params = jax.jit(experiment.init_params)(stream_key(0, "init"))
        batch = Batch(jnp.ones((4, 2), jnp.float32), jnp.zeros(4, jnp.int32))
        drawn = jax.jit(experiment.draw)(batch, 3)
        losses = jax.jit(lambda p, d: experiment.losses(p, d, train=False))(params, drawn)
    mesh = make_mesh(1, jax.devices()[:1])
    samples = SampleProgram(experiment, mesh, CONFIG.sample)(params, 2, seed=7).samples
    keys = jax.random.key_data(sample_keys(7, np.arange(3)))
    drawn = drawn._replace(dropout=jax.random.key_data(drawn.dropout))
    return [np.asarray(leaf) for leaf in jax.tree.leaves((params, drawn, losses, keys, samples))]


@pytest.fixture(scope="module")
def plain():
    return all_that_is_random()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_enable_x64", True),
        ("jax_threefry_partitionable", False),
        ("jax_default_prng_impl", "rbg"),
        ("jax_random_seed_offset", 5),
        ("jax_numpy_rank_promotion", "raise"),
        ("jax_numpy_dtype_promotion", "strict"),
        ("jax_transfer_guard", "disallow"),
        ("jax_debug_nans", True),
        ("jax_debug_infs", True),
        ("jax_legacy_prng_key", "error"),
        ("jax_enable_custom_prng", True),
    ],
)
def test_a_run_has_the_same_bits_under_a_switch(plain, name, value):
    if not hasattr(jax.config, name):
        pytest.skip(f"this JAX has no {name}")
    with switch(name, value):
        found = all_that_is_random()
    for ours, expected in zip(found, plain, strict=True):
        assert ours.dtype == expected.dtype
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("seed", [0, 7, 2**31, 2**32 - 1])
def test_a_seed_means_jax_s_own_threefry_key(seed):
    key = jax.random.key(seed, impl="threefry2x32")
    expected = jax.random.fold_in(jax.random.fold_in(key, 2), 9)
    found = jax.jit(lambda seed: stream_key(seed, "noise", 9))(np.uint32(seed))
    np.testing.assert_array_equal(jax.random.key_data(found), jax.random.key_data(expected))


def test_a_switch_that_keeps_jax_from_compiling_is_one_line(tmp_path):
    require_compiling()
    with jax.disable_jit():
        for call in (
            require_compiling,
            lambda: train(CONFIG, tmp_path / "run"),
            lambda: SampleProgram(build(CONFIG), make_mesh(1, jax.devices()[:1]), CONFIG.sample),
        ):
            with pytest.raises(UserError, match=r"JAX_DISABLE_JIT is True.* set it to False or un"):
                call()
    assert not (tmp_path / "run").exists()


def test_a_platform_that_is_not_there_is_one_line(monkeypatch):
    def missing():
        raise RuntimeError("Unable to initialize backend 'cuda': no such device\nmore")

    monkeypatch.setattr(jax, "devices", missing)
    for call in (all_devices, make_mesh):
        with pytest.raises(UserError) as told:
            call()
        expected = (
            "JAX has no device to run on: Unable to initialize backend 'cuda': no such device"
        )
        assert str(told.value) == f"{expected}; fix or unset JAX_PLATFORMS"


def test_processes_agree_on_the_switches_that_are_not_pinned(tmp_path, monkeypatch):
    from ddpm_jax.data import open_source
    from ddpm_jax.data.identity import describe_source

    source = describe_source(open_source(CONFIG.data))
    one = _what_must_agree(CONFIG, tmp_path, source, None)
    with jax.default_matmul_precision("float32"):
        other = _what_must_agree(CONFIG, tmp_path, source, None)
    assert {name for name in one if one[name] != other[name]} == {"JAX_DEFAULT_MATMUL_PRECISION"}
    monkeypatch.setenv("DDPM_JAX_OPS", "reference")
    other = _what_must_agree(CONFIG, tmp_path, source, None)
    assert {name for name in one if one[name] != other[name]} == {"DDPM_JAX_OPS"}

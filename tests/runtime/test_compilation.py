import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from ddpm_jax.runtime import compilation as backend

CPU = jax.devices("cpu")[0]


def test_xla_accepts_the_options_and_the_users_come_first(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    options = backend.compiler_options(CPU)
    assert options == backend._CPU_OPTIONS
    x = jnp.arange(4.0)
    assert jax.jit(lambda x: 2 * x, compiler_options=options)(x).sum() == 12
    name = next(iter(options))
    monkeypatch.setenv("XLA_FLAGS", f"--{name}= --xla_cpu_enable_fast_math=false")
    assert backend.compiler_options(CPU) == {}


def test_an_option_that_this_xla_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setattr(backend, "_CPU_OPTIONS", {"xla_cpu_no_such_thing": "1"})
    assert backend.compiler_options(CPU) == {}


def test_other_devices_get_no_options():
    class Accelerator:
        platform = "tpu"

    assert backend.compiler_options(Accelerator()) == {}


_PROGRAM = """
from ddpm_jax.runtime.compilation import enable_compilation_cache
enable_compilation_cache()
import jax, jax.numpy as jnp
jax.jit(lambda x: jnp.linalg.qr(x @ x))(jnp.ones((8, 8)))
"""


@pytest.mark.parametrize("kept", [True, False])
def test_programs_are_kept_in_the_users_cache_unless_there_is_none(tmp_path, kept):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {"DDPM_JAX_CACHE": str(tmp_path / "c") if kept else ""}
    # Without this, a program that compiles quickly is not kept.
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", _PROGRAM], env=environment, check=True)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert bool(files) == kept
    assert all(path.parent.name.startswith("programs-") for path in files)


def test_the_environment_decides(monkeypatch, tmp_path):
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    backend.enable_compilation_cache()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "elsewhere"

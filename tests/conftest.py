"""What all tests share: the mathematics' annotated shapes and types are checked on each call."""

import gc
import os
import signal
import subprocess
import sys
import tempfile

import jax
import jaxtyping
import pytest

# Before anything imports the package: the hook rewrites modules as they load. Production runs never
# install it, so the annotations cost nothing there.
jaxtyping.install_import_hook(
    "ddpm_jax.diffusion", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)


def _is_known(flags: str) -> bool:
    """Whether XLA starts with these flags: it ends the process over one that it does not know."""
    code = "import jax; jax.numpy.zeros(1).block_until_ready()"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return not subprocess.run([sys.executable, "-c", code], env=env, capture_output=True).returncode


# Compiling is most of what a test costs; unoptimized, it takes half the time. Flags come and go
# with XLA's versions. The first process tries them; its workers and commands inherit what it found.
if "DDPM_TEST_PROGRAMS" not in os.environ:
    _GIVEN = os.environ.get("XLA_FLAGS", "")
    _QUICK = ["--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false"]
    _QUICK = [flag for flag in _QUICK if flag not in _GIVEN]
    if not _is_known(" ".join(_QUICK)):
        _QUICK = [flag for flag in _QUICK if _is_known(flag)]
    os.environ["XLA_FLAGS"] = " ".join([_GIVEN, *_QUICK]).strip()

# Tracing makes millions of short-lived objects, and each full collection walks all that is loaded:
# a tenth of the time of tests/models.
gc.set_threshold(100_000, 20, 100)

# A user's Python buffers what it prints and keeps what it compiles: so does that of the commands
# which tests start, whatever this environment says.
for name in ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"):
    os.environ.pop(name, None)
sys.dont_write_bytecode = False

# `nohup` and `&` have children ignore these signals; the commands that tests start must not.
for number, handler in {
    signal.SIGHUP: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
}.items():
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

# What a test decodes is not kept in the user's own cache.
os.environ.setdefault("DDPM_JAX_CACHE", "")

# Eight devices on any machine's CPU, so that every test of a mesh is a test of the real program.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

# Tests, and the commands they start, meet the same programs again and again: each is compiled once.
# The first process sets the folder up; its workers and commands inherit it.
if "DDPM_TEST_PROGRAMS" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="ddpm-test-programs-")
    os.environ["DDPM_TEST_PROGRAMS"] = os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
jax.config.update("jax_compilation_cache_dir", os.environ["DDPM_TEST_PROGRAMS"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def pytest_collection_finish():
    gc.collect()
    gc.freeze()


def pytest_addoption(parser):
    parser.addoption(
        "--long", action="store_true", help="the fault suite's long form: minutes, not seconds"
    )


@pytest.fixture(scope="module")
def one_device():
    """Has the module's runs use one device, as their users mostly do; eight take twice as long."""
    with pytest.MonkeyPatch.context() as patch:
        first = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda: first)
        yield

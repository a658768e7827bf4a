"""What all tests share: the mathematics' annotated shapes and types are checked on each call."""

import os
import tempfile

import jax
import jaxtyping

# Before anything imports the package: the hook rewrites modules as they load. Production runs never
# install it, so the annotations cost nothing there.
jaxtyping.install_import_hook(
    "ddpm_jax.diffusion", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

# Compiling is most of what a test costs, and level 0 takes two thirds of the time.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"

# Eight devices on any machine's CPU, so that every test of a mesh is a test of the real program.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

# Tests, and the commands they start, meet the same programs again and again: each is compiled once.
_CACHE = tempfile.TemporaryDirectory(prefix="ddpm-test-programs-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
jax.config.update("jax_compilation_cache_dir", _CACHE.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.runtime import memory
from ddpm_jax.runtime.memory import (
    OutOfMemory,
    device_bytes,
    free_bytes,
    memory_errors,
    planned_bytes,
    require_memory,
)


def test_the_free_memory_is_at_most_the_containers_limit(tmp_path, monkeypatch):
    here = free_bytes()
    assert here is None or 2**20 < here < 2**50
    limit, word = tmp_path / "limit", tmp_path / "word"
    limit.write_text("4096\n")
    word.write_text("max\n")
    monkeypatch.setattr(memory, "_CONTAINER_LIMITS", (str(word), str(tmp_path / "none")))
    assert free_bytes() == pytest.approx(here, rel=0.5)
    monkeypatch.setattr(memory, "_CONTAINER_LIMITS", (str(word), str(limit)))
    assert free_bytes() == device_bytes(jax.devices()[0]) == 4096


def test_more_than_there_is_is_said_with_its_mend():
    require_memory(5, 5, "x", "y")
    require_memory(5, None, "x", "y")
    with pytest.raises(OutOfMemory, match=r"^x need 3.0 GiB, and 1.5 GiB of memory is free; y$"):
        require_memory(3 * 2**30, 3 * 2**29, "x", "y")


def test_errors_of_xla_and_numpy_become_a_line():
    def of_xla():
        jax.block_until_ready(jax.jit(lambda: jnp.zeros(2**42))())

    for fail in (of_xla, lambda: np.zeros(2**55)):
        with pytest.raises(OutOfMemory) as caught, memory_errors("use less"):
            fail()
        line = str(caught.value)
        assert line.startswith("memory has run out (")
        assert line.endswith("); use less")
        assert "\n" not in line
    with pytest.raises(ZeroDivisionError), memory_errors("use less"):
        _ = 1 / 0


def test_a_programs_plan_counts_what_goes_in_and_out():
    program = jax.jit(lambda x: x + 1).lower(jnp.zeros(1000)).compile()
    assert planned_bytes(program) == pytest.approx(8000, abs=200)

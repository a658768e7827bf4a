"""Networks are computed by reference operations, whose programs compile in the least time."""

import pytest


@pytest.fixture(autouse=True)
def reference_operations(monkeypatch):
    monkeypatch.setenv("DDPM_JAX_OPS", "reference")

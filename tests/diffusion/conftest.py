"""What the tests of the mathematics share."""

import pytest

from ddpm_jax.diffusion import VARIANCES


@pytest.fixture
def learned_range(monkeypatch):
    """A variance that the network predicts, added to the table as one row."""
    monkeypatch.setitem(VARIANCES, "learned_range", None)

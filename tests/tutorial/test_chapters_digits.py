"""The chapters on digits run, and say what is so."""

import pytest


def test_pictures(run, is_long):
    names = run(5)
    if is_long:
        assert names["agreement"] > 0.9


def test_guidance(run, is_long):
    names = run(6)
    if is_long:
        assert names["agreements"][1] >= names["agreements"][0]
        assert names["spreads"][1] < names["spreads"][0]


def test_editing(run, is_long):
    names = run(7)
    if is_long:
        assert names["error"] < 0.002


def test_likelihood(run, is_long):
    names = run(8)
    values = names["measured"].values
    assert values["rate"] + values["distortion"] == pytest.approx(values["bits_per_dim"], rel=1e-4)
    if is_long:
        assert 4 < values["bits_per_dim"] < 6

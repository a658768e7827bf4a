"""The chapters on digits run, and say what is so."""

import pytest


def test_pictures(run, is_long):
    names = run(5)
    if is_long:
        assert names["agreement"] > 0.9


@pytest.fixture
def only_long(is_long):
    """Skips what takes too long for every test run; chapter 5 has trained the run by then."""
    if not is_long:
        pytest.skip("--long: more than ten seconds each")


@pytest.mark.usefixtures("only_long")
def test_guidance(run):
    names = run(6)
    assert names["agreements"][1] >= names["agreements"][0]
    assert names["spreads"][1] < names["spreads"][0]


@pytest.mark.usefixtures("only_long")
def test_editing(run):
    assert run(7)["error"] < 0.002


@pytest.mark.usefixtures("only_long")
def test_likelihood(run):
    values = run(8)["measured"].values
    assert values["rate"] + values["distortion"] == pytest.approx(values["bits_per_dim"], rel=1e-4)
    assert 4 < values["bits_per_dim"] < 6

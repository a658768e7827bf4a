"""`ddpm data info`: which data it reads."""

import pytest

from ddpm_jax import cli
from ddpm_jax.config import TfdsData
from ddpm_jax.errors import UserError
from ddpm_jax.reports import inspection


@pytest.mark.parametrize(
    ("words", "split"),
    [
        (["mnist"], "train"),
        (["mnist", "--split", "test"], "test"),
        (["configs/mnist.py"], "train"),
        (["configs/mnist.py", "--split", "test"], "test"),
        (["configs/mnist.py", "--split", "test", "--data.split", "train[:9]"], "train[:9]"),
    ],
)
def test_a_short_flag_is_a_setting_of_the_data(words, split, monkeypatch, capsys):
    asked = []

    def inspect(data, progress):
        asked.append(data)
        raise UserError("seen")

    monkeypatch.setattr(inspection, "inspect", inspect)
    assert cli.main(["data", "info", *words, "--data_dir", "here"]) == 2
    assert capsys.readouterr().err == "ddpm: seen\n"
    (data,) = asked
    assert isinstance(data, TfdsData)
    assert (data.name, data.split, data.data_dir) == ("mnist", split, "here")

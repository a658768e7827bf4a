import pytest

from ddpm_jax import config as configs
from ddpm_jax.config import (
    ArraysData,
    Config,
    DigitsData,
    FolderData,
    MlpConfig,
    SampleConfig,
    describe_shown,
    shown_channels,
)
from ddpm_jax.errors import UserError

SHOWN = {
    (1, None): None,
    (3, None): None,
    (4, None): None,
    (2, None): (0,),
    (5, None): (0, 1, 2),
    (13, (3, 2, 1)): (3, 2, 1),
    (4, (3, 2, 1)): (3, 2, 1),
    (3, (2,)): (2,),
}


@pytest.mark.parametrize(("given", "expected"), SHOWN.items())
def test_pictures_show_chosen_channels_or_the_first(given, expected):
    channels, chosen = given
    data = ArraysData(channels=channels, show_channels=chosen)
    assert shown_channels(data) == expected
    assert (describe_shown(data) is None) == (expected is None)


def test_what_pictures_show_is_said_in_words():
    said = "pictures show channels 0, 1, 2 of 0 … 4 as red, green and blue; data.show_channels"
    assert (describe_shown(ArraysData(channels=5)) or "").startswith(said)
    assert "channel 0 of 0 … 1 as grey" in (describe_shown(ArraysData(channels=2)) or "")


@pytest.mark.parametrize("data", [DigitsData(), FolderData(), ArraysData(holds="points")])
def test_other_data_are_shown_as_they_are(data):
    assert shown_channels(data) is None


@pytest.mark.parametrize("chosen", [(), (0, 1), (0, 1, 2, 3), (0, 1, 5), (-1,)])
def test_channels_that_are_not_there_are_refused(chosen):
    with pytest.raises(UserError, match=r"data\.show_channels is .* each in 0 … 4"):
        ArraysData(channels=5, show_channels=chosen)


@pytest.mark.parametrize("cls", [ArraysData, FolderData])
@pytest.mark.parametrize("span", [(1, 1), (0, float("inf")), (float("nan"), 1)])
def test_a_range_of_nothing_is_refused(cls, span):
    with pytest.raises(UserError, match=r"data\.range is"):
        cls(range=span)


def test_points_of_an_array_file_are_not_clipped_even_in_runs_of_before():
    data, model = ArraysData(path="x.npy", holds="points"), MlpConfig()
    with pytest.raises(UserError, match=r"sample\.clipping is 'clip'; it must be none for points"):
        Config(data=data, model=model)
    config = Config(data=data, model=model, sample=SampleConfig(clipping="none"))
    before = configs.to_dict(config)
    before["sample"]["clipping"] = {"name": "clip", "low": -1.0, "high": 1.0}
    assert configs.from_saved({**before, "format": configs.FORMAT}) == config

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.config import ArraysData, FolderData, PictureData, TfdsData
from ddpm_jax.data.recognition import recognize
from ddpm_jax.errors import UserError


def test_a_path_or_a_name_becomes_the_config_of_its_kind(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(1))
    Image.new("L", (2, 2)).save(tmp_path / "x.png")
    assert recognize(str(tmp_path)) == FolderData(path=str(tmp_path))
    assert isinstance(recognize(str(tmp_path / "x.npy")), ArraysData)
    assert isinstance(recognize(str(tmp_path / "x.png")), PictureData)
    assert recognize("mnist:3.0.1") == TfdsData(name="mnist:3.0.1")
    for missing in (str(tmp_path / "gone"), "./gone", "gone.zip"):
        with pytest.raises(UserError, match="does not exist; name a folder"):
            recognize(missing)

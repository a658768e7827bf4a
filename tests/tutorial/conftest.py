"""How the tests run chapters: shortened, or to the end with `--long`."""

import re

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.tutorial.chapters import chapters, run_chapter
from ddpm_jax.tutorial.support import SHARE


@pytest.fixture(scope="module")
def is_long(request):
    return request.config.getoption("--long")


@pytest.fixture(scope="module")
def share(is_long):
    """All training steps and samples in the long form; else as few as there can be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SHARE, "1" if is_long else "0")
        yield


@pytest.fixture(scope="module")
def run(share, one_device, tmp_path_factory):
    """Runs a chapter by its number, all in one folder, looks for its pictures; its variables."""
    folder = tmp_path_factory.mktemp("tutorial")

    def run(number):
        chapter = chapters()[number - 1]
        names = run_chapter(chapter, folder)
        pictures = re.findall(r'"(\d-[\w-]+\.(?:png|gif))"', chapter.path.read_text())
        assert len(set(pictures)) == len(pictures)
        for name in pictures:
            assert name.startswith(f"{number}-")
            with Image.open(folder / name) as picture:
                assert np.asarray(picture.convert("L"), float).std() > 1  # It shows something.
        return names

    return run

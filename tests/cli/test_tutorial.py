"""`ddpm tutorial`: the list, one chapter with its pictures, and what it refuses."""

import importlib.util

import pytest

from ddpm_jax import cli
from ddpm_jax.tutorial import chapters as module
from ddpm_jax.tutorial.chapters import chapters


def test_it_lists_every_chapter(capsys):
    assert cli.main(["tutorial"]) == 0
    out = capsys.readouterr().out
    for chapter in chapters():
        assert f"{chapter.number}  {chapter.title}\n" in out
        assert chapter.about in out


def test_it_runs_a_chapter_and_names_its_pictures(tmp_path, capsys, monkeypatch):
    path = tmp_path / "1_tiny.py"
    path.write_text(
        "# %% [markdown]\n# # Tiny\n#\n# A dot.\n\n# %%\nimport numpy as np\n\n"
        "from ddpm_jax import plots\nfrom ddpm_jax.tutorial.support import show\n\n"
        'print("hello")\nshow(plots.grid, "1-dot.png", np.zeros((1, 8, 8, 1)))\n'
    )
    tiny = module._chapter(path)
    monkeypatch.setattr("ddpm_jax.cli.tutorial.chapters", lambda: [tiny])
    output = tmp_path / "out"
    assert cli.main(["tutorial", "1", "--output", str(output)]) == 0
    out = capsys.readouterr().out
    assert "Tiny: A dot." in out
    assert "hello" in out
    assert out.endswith(f"{output / '1-dot.png'}\n")
    assert (output / "1-dot.png").is_file()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["0"], "ddpm: there is no chapter 0; there are 1 … 9: ddpm tutorial\n"),
        (["three"], "ddpm: there is no chapter three; there are 1 … 9: ddpm tutorial\n"),
    ],
)
def test_it_refuses_what_is_no_chapter(words, line, capsys):
    assert cli.main(["tutorial", *words]) == 2
    assert capsys.readouterr().err == line


def test_notebooks_name_their_extra(tmp_path, capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "nbclient" else found(name)
    )
    assert cli.main(["tutorial", "--notebooks", str(tmp_path / "new")]) == 2
    expected = "ddpm: notebooks need more packages: pip install 'ddpm_jax[tutorial]'\n"
    assert capsys.readouterr().err == expected
    assert not (tmp_path / "new").exists()

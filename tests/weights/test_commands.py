"""`ddpm import` and `ddpm export`: from a folder to a run and back."""

import numpy as np
import pytest

from ddpm_jax import cli
from ddpm_jax.sampling.run import load
from ddpm_jax.weights.tensors import read_tensors
from tests.weights.pipelines import pipeline, tensors


def test_a_folder_becomes_a_run_and_a_folder_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pipeline(tmp_path / "theirs")
    words = "import theirs --from diffusers --workdir run --null_class True --model.dropout 0.25"
    assert cli.main([*words.split(), "--config", "cifar10", "--train.label-dropout", "0.1"]) == 0
    assert "theirs is the run run; try: ddpm sample run" in capsys.readouterr().out
    found = load("run")
    assert (found.step, found.config.init) == (0, "diffusers:theirs")
    model = found.config.model
    assert (model.dropout, model.num_classes) == (0.25, 3)  # type: ignore[attr-defined]
    # Data and training are those of the config, but for the size of the pictures.
    assert found.config.data.kind == "tfds"
    assert found.config.data.example_shape == (8, 8, 3)
    assert cli.main(["export", "run", "ours", "--to", "diffusers"]) == 0
    assert "step 0 of run, ema, is in ours for diffusers" in capsys.readouterr().out
    back = read_tensors(tmp_path / "ours/unet/diffusion_pytorch_model.safetensors")
    assert back.keys() == tensors("residual").keys()
    assert all(np.array_equal(back[name], it) for name, it in tensors("residual").items())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("import x --workdir y", "needs --from annotated or diffusers"),
        ("import x --from diffusers", "and --workdir with a new folder"),
        ("import x --from difusers --workdir y", "did you mean diffusers"),
        ("import x --from openai --workdir y", "the format openai needs the option --image_size"),
        (
            "import x --from diffusers --workdir y --image_size 8",
            "--image_size is no option of the format diffusers",
        ),
        ("export x", "needs a DIR first"),
        ("export x y", "needs --to diffusers or safetensors or stablehlo"),
        ("export x y --to onnx", "--to is 'onnx'"),
        ("export x y --to diffusers", "x does not exist; train first"),
    ],
)
def test_words_that_can_not_be_followed_are_one_line(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words.split()) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert (out, len(err.splitlines())) == ("", 1)
    assert not list(tmp_path.iterdir())

"""The chain in one file: a program with JAX alone draws what the run draws."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export

from ddpm_jax.config import Choice
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.sampling.run import Run
from ddpm_jax.weights.formats import export_weights
from ddpm_jax.weights.stablehlo import FILE, PLATFORMS
from tests.tiny import UNET, changed

pytest.importorskip("flatbuffers")
pytestmark = pytest.mark.usefixtures("one_device")

README = (Path(__file__).parents[2] / "README.md").read_text()
(SCRIPT,) = [
    code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "deserialize" in code
]
AFTER = """
import sys
assert "ddpm_jax" not in sys.modules
jnp.save("samples.npy", samples)
"""


@pytest.mark.parametrize(
    ("diffusion", "says"),
    [
        ({"objective": "classification"}, "stablehlo: the run is a classifier"),
        ({"condition": Choice("low_resolution")}, "condition low_resolution the network is shown"),
    ],
)
def test_what_no_file_can_draw_is_not_written(diffusion, says, tmp_path):
    with pytest.raises(UserError, match=says):
        export_weights("stablehlo", changed(UNET, diffusion=diffusion), {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_jax_alone_draws_the_runs_samples(tmp_path, monkeypatch):
    config = changed(UNET, model={"attention": (8,)}, sample={"steps": 3, "guidance": 1.0})
    experiment = build(config)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.2, leaf.shape).astype("f"), experiment.param_shapes
    )
    run = Run(tmp_path, 0, experiment, params, name="ema", mesh=make_mesh(1))
    expected = run.sample(10, seed=0, labels=list(range(10))).samples
    # The file has reference operations whatever is set here.
    monkeypatch.setenv("DDPM_JAX_OPS", "auto")
    (line,) = export_weights("stablehlo", config, params, tmp_path / "chain")
    assert "sample(seed, numbers, labels) of 3 steps" in line
    file = tmp_path / "chain" / FILE
    found = export.deserialize(bytearray(file.read_bytes()))
    assert found.platforms == PLATFORMS
    assert str(found.out_avals[0].shape) == "(b, 8, 8, 1)"
    subprocess.run([sys.executable, "-c", SCRIPT + AFTER], check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "samples.npy"), expected, atol=1e-5)

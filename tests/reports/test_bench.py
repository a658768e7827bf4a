import dataclasses
import json

import pytest

from ddpm_jax.cli import main
from ddpm_jax.config import Config, FolderData, MlpConfig, PointsData, SampleConfig, TrainConfig
from ddpm_jax.errors import UserError
from ddpm_jax.reports import bench as benches
from ddpm_jax.reports.bench import bench

pytestmark = pytest.mark.usefixtures("one_device")

POINTS = Config(
    data=PointsData(size=64),
    model=MlpConfig(width=8, layers=1),
    train=TrainConfig(steps=4, batch_size=16, steps_per_dispatch=2),
    sample=SampleConfig(batch_size=8, clipping="none"),
)


def test_every_figure_is_measured_and_they_agree():
    said = []
    found = bench(POINTS, steps=2, progress=said.append)
    assert said
    for name in ("product_peak_flops", "compile_cold_s", "step_ms", "sample_step_ms"):
        assert found[name] > 0, name
    assert found["images_per_s"] == pytest.approx(1e3 * found["batch_size"] / found["step_ms"])
    assert 0 < found["data_wait_ms"] < found["step_ms"]
    assert found["data"] == "points"
    assert found["train_peak_bytes"] > 4 * 3 * found["parameters"]
    share = 3 * found["model_flops_per_image"] * found["images_per_s"]
    assert found["train_share_of_peak"] * found["product_peak_flops"] == pytest.approx(share)
    chain = found["chain_steps"] * found["sample_step_ms"] / 1e3
    assert found["chain_s_at_that_rate"] == pytest.approx(chain)


@pytest.fixture
def any_peak(monkeypatch):
    """Spares a test the largest products, which take seconds."""
    monkeypatch.setattr(benches, "product_peak", lambda dtype: 1e12)


def test_without_its_data_it_says_so_and_measures(tmp_path, any_peak):
    gone = FolderData(path=str(tmp_path), image_size=(8, 8), channels=1)
    found = bench(dataclasses.replace(POINTS, data=gone), steps=1)
    assert found["data"].startswith("none: zeros stand in for it")
    assert found["step_ms"] > 0


def test_no_steps_are_refused():
    with pytest.raises(UserError, match="steps is 0"):
        bench(POINTS, steps=0)


def test_the_command_prints_json(capsys, any_peak):
    words = ["--train.steps_per_dispatch", "1", "--train.batch_size", "8", "--model.width", "8"]
    words += ["--sample.batch_size", "8", "--steps", "1", "--json"]
    assert main(["bench", "configs/swiss_roll.py", *words]) == 0
    assert json.loads(capsys.readouterr().out)["batch_size"] == 8

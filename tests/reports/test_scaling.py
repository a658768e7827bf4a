"""Predictions: closed forms where there are some, and elsewhere near to what XLA plans."""

import json

import pytest

from ddpm_jax import config as configs
from ddpm_jax.cli import main
from ddpm_jax.config import override
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.reports.communication import collectives, sent
from ddpm_jax.reports.hardware import HARDWARE
from ddpm_jax.reports.info import count_parameters
from ddpm_jax.reports.program import read_program
from ddpm_jax.reports.scaling import (
    exchanges,
    kept_bytes,
    lines,
    parameter_bytes,
    predict_memory,
    predict_scaling,
)
from ddpm_jax.runtime.memory import planned_bytes
from ddpm_jax.runtime.mesh import abstract_mesh, bytes_per_device
from ddpm_jax.training.step import state_layout
from tests.reports.test_communication import POINTS, SCALAR, compiled
from tests.tiny import UNET, changed


def test_the_papers_256_model_takes_sixteen_bytes_a_parameter():
    experiment = build(configs.load_file("configs/celebahq256.py"))
    for fsdp in (1, 8, 64):
        layout = state_layout(experiment, abstract_mesh(fsdp, 64))
        whole, split = parameter_bytes(layout.params)
        assert whole + split == 4 * 113_673_219
        # Parameters, their average and Adam's two moments; and three counters.
        assert bytes_per_device(layout) == 4 * (whole + split // fsdp) + 3 * 4
        assert split > 0.99 * (whole + split) or fsdp == 1
        assert (split == 0) == (fsdp == 1)


def test_one_device_sends_nothing_and_loses_nothing():
    found = predict_scaling(POINTS, 1)
    assert found["sent_bytes_per_device_and_step"] == 0
    assert found["exchanges"] == []
    for name in HARDWARE:
        row = found["predicted"][name]
        assert row["efficiency_hidden"] == row["efficiency_not_hidden"] == 1
        assert row["fits"]


def test_more_devices_send_more_and_lose_more():
    config = changed(POINTS, train={"batch_size": 512})
    # So few that no slice of TPUs is a whole torus, which would have more links than a smaller one.
    rows = [predict_scaling(config, devices) for devices in (2, 8, 32)]
    for name in HARDWARE:
        hidden, not_hidden = (
            [row["predicted"][name][f"efficiency_{way}"] for row in rows]
            for way in ("hidden", "not_hidden")
        )
        assert not_hidden == sorted(not_hidden, reverse=True)
        assert all(1 >= one >= other > 0 for one, other in zip(hidden, not_hidden, strict=True))
    whole = 4 * count_parameters(build(config))
    for row in rows:
        n = row["devices"]
        assert row["sent_bytes_per_device_and_step"] == round(2 * (n - 1) / n * whole)


@pytest.mark.parametrize(
    "settings", [{}, {"train": {"gradient_accumulation_steps": 2}}, {"mesh": {"fsdp": 8}}], ids=str
)
def test_what_is_predicted_to_be_sent_is_what_the_compiled_step_sends(settings):
    config = changed(POINTS, **settings)
    program, state, _ = compiled(config)
    table = collectives(read_program(program.as_text()))
    if config.mesh.fsdp > 1:
        # Without a reduce-scatter, as on a CPU, the sum of the split ones goes everywhere.
        whole, split = parameter_bytes(state.params)
        (_, gather, scatter) = exchanges(whole, split, data=1, fsdp=8)
        assert scatter.collective.bytes == gather.collective.bytes == split
        more = scatter.collective.sent
    else:
        more = 0
    predicted = predict_scaling(config, 8)["sent_bytes_per_device_and_step"]
    assert predicted + more == pytest.approx(sent(table), abs=100 * SCALAR)


def test_two_ways_of_splitting_send_the_gradient_in_two_steps():
    whole, gathered, scattered, across = exchanges(8, 4096, data=4, fsdp=16)
    assert (whole.collective.group, whole.stride) == (64, 1)
    assert (gathered.collective.group, gathered.collective.bytes) == (16, 4096)
    assert (scattered.collective.group, scattered.collective.bytes) == (16, 4096)
    assert (across.collective.group, across.collective.bytes, across.stride) == (4, 256, 16)


@pytest.mark.parametrize("settings", [{"data": 1, "fsdp": 1}, {"data": 1, "fsdp": 4}], ids=str)
def test_nothing_is_exchanged_that_nobody_needs(settings):
    assert len(exchanges(8, 0, **settings)) == (0 if settings["fsdp"] == 1 else 1)


def test_the_peak_is_near_what_xla_plans():
    config = changed(POINTS, train={"batch_size": 4096})
    program, _, _ = compiled(config, 1)
    planned = planned_bytes(program)
    assert planned
    found = predict_scaling(config, 1)
    assert found["kept_for_backward_bytes_per_device"] > 0.5 * found["peak_bytes_per_device"]
    assert 0.5 < planned / found["peak_bytes_per_device"] < 2


@pytest.fixture(scope="module")
def cifar10():
    return override(configs.load_file("configs/cifar10.py"), {"model.dtype": "bfloat16"})


@pytest.fixture(scope="module")
def kept_of_cifar10(cifar10):
    return kept_bytes(build(cifar10))


# State and temporaries of a device in bytes, as their compilers planned them on 2026-11-25; the
# prediction for TPUs is fitted to the first two.
@pytest.mark.parametrize(
    ("name", "images", "planned"),
    [("TPU v5e", 16, 0.90e9), ("TPU v5e", 128, 2.27e9), ("H100 SXM", 128, 3.77e9)],
)
def test_memory_is_within_a_tenth_of_the_compilers(name, images, planned, cifar10, kept_of_cifar10):
    config = override(cifar10, {"train.batch_size": images})
    found = predict_memory(config, 1, kept_of_cifar10).peak(HARDWARE[name].kept)
    assert found == pytest.approx(planned, rel=0.1)


def test_remat_keeps_less():
    plain, remat = (
        kept_bytes(build(changed(UNET, model={"remat": remat}))) for remat in (False, True)
    )
    assert remat < 0.5 * plain


def test_devices_that_can_not_share_the_work_are_refused(capsys):
    for words, expected in (
        (["--devices", "0"], "ddpm: devices is 0; it must be at least 1"),
        (["--devices", "many"], "--devices is many; it must be a whole number or None"),
        (["--devices"], "--devices needs a value"),
        (["--devices", "48"], "can't be split over 48 devices; train.batch_size 144 can"),
        (["--devices", "4", "--mesh.fsdp", "8"], "it must divide the number of devices, 4"),
    ):
        assert main(["info", "configs/digits.py", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert expected in line
    with pytest.raises(UserError):
        predict_scaling(POINTS, -1)


def test_the_command_prints_what_is_predicted_and_all_that_is_assumed(capsys):
    words = ["info", "configs/swiss_roll.py", "--devices", "8", "--model.width", "8"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["devices"] == 8
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.splitlines() == lines(found)
    assert "Predicted, not measured:" in said
    for name, row in HARDWARE.items():
        assert name in said
        assert row.source in said.replace("\n  ", " ")

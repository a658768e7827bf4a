import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.reports.hardware import HARDWARE
from ddpm_jax.reports.targets import topology
from ddpm_jax.reports.targets.topology import KINDS, read_target


@pytest.fixture(autouse=True)
def compilers(monkeypatch):
    """As if all compilers were installed."""
    monkeypatch.setattr(topology, "_compilers", lambda platform: [platform])


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_alone_is_one_device(name):
    found = read_target(name)
    assert found.devices == 1
    assert found.hardware is HARDWARE[found.kind.hardware]
    assert (found.hardware.clock is None) == (found.kind.platform == "cuda")


def test_shapes_are_read():
    assert read_target("v5e:2x4").devices == 8
    assert read_target("v5p:4x4x4").devices == 64
    assert read_target("h100:16").devices == 16


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v5", "there is no v5"),
        ("v5e:8", "it must be like v5e:2x4"),
        ("v5p:2x2", "it must be like v5p:2x2x4"),
        ("h100:0", "it must be like h100:8"),
        ("h100:2x4", "it must be like h100:8"),
        ("v5e:", "it must be like v5e:2x4"),
    ],
)
def test_a_wrong_target_is_refused_in_a_line(text, expected):
    with pytest.raises(UserError, match=expected) as error:
        read_target(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize(("name", "extra"), [("v5e", "tpu"), ("h100", "cuda")])
def test_without_its_compiler_a_line_says_what_to_install(name, extra, monkeypatch):
    monkeypatch.setattr(topology, "_compilers", lambda platform: [])
    with pytest.raises(UserError, match=rf"pip install 'ddpm_jax\[{extra}\]'"):
        read_target(name)


def test_a_gpu_is_described_by_the_shared_table():
    text = topology._gpu_config(read_target("h100"))
    assert f"device_memory_size: {HARDWARE['H100 SXM'].memory}" in text
    assert "cuda_compute_capability { major: 9 minor: 0 }" in text
    assert text.count("{") == text.count("}")

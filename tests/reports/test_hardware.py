import pytest

from ddpm_jax.reports.communication import Collective
from ddpm_jax.reports.hardware import HARDWARE, hardware_of

GIGA = 10**9


@pytest.mark.parametrize("name", HARDWARE)
def test_a_row_is_complete_and_in_plain_units(name):
    row = HARDWARE[name]
    assert 1e14 < row.peak_flops < 1e16
    assert 1e10 < row.memory < 1e12
    # Memory is faster than links, and links faster than the network: else a unit was mixed up.
    assert row.memory_rate > row.link_rate
    assert row.network_rate is None or row.link_rate > 4 * row.network_rate > 1e9
    assert row.source in row.said


@pytest.mark.parametrize("name", HARDWARE)
def test_among_few_a_ring_keeps_the_links_busy(name):
    row = HARDWARE[name]
    links = row.link_rate if row.torus == 1 else row.link_rate / 2
    summed = Collective("all-reduce", GIGA, 8)
    assert row.seconds(summed, devices=8) == pytest.approx(2 * 7 / 8 * GIGA / links)
    assert row.seconds(summed._replace(group=1), devices=1) == 0


def test_a_whole_torus_has_all_its_links():
    row = HARDWARE["TPU v5p"]
    summed = Collective("all-reduce", GIGA, 64)
    assert row.seconds(summed, devices=64) == pytest.approx(2 * 63 / 64 * GIGA / row.link_rate)


def test_between_nodes_only_a_part_goes_through_the_network():
    row = HARDWARE["H100 SXM"]
    summed = Collective("all-reduce", GIGA, 32)
    assert row.network_rate
    near = 2 * 7 / 8 * GIGA / row.link_rate
    far = 2 * 3 / 4 * GIGA / 8 / row.network_rate
    assert row.seconds(summed, devices=32) == pytest.approx(near + far)
    # Each of those that are 8 apart is in a node of its own; none is by itself.
    apart = row.seconds(summed._replace(group=4), devices=32, stride=8)
    assert apart == pytest.approx(2 * 3 / 4 * GIGA / row.network_rate)
    # A node that is not full still lies beyond the network.
    assert row.seconds(summed._replace(group=12), devices=12) > near


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5 lite", "TPU v5e"),
        ("TPU v5", "TPU v5p"),
        ("TPU v6 lite", "TPU v6e"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
    ],
)
def test_devices_are_known_by_jaxs_names(kind, name):
    assert hardware_of(kind) is HARDWARE[name]
    assert hardware_of("cpu") is None


@pytest.mark.parametrize("name", [name for name, row in HARDWARE.items() if row.clock])
def test_a_clock_is_that_of_the_published_peak(name):
    row = HARDWARE[name]
    # Whole matrix units of 128x128 make a product and a sum for each entry in each cycle.
    assert row.clock
    assert row.peak_flops / row.clock / (2 * 128**2) in (4, 8, 16)
    assert 0.9e9 < row.clock < 2e9


def test_what_no_published_network_joins_is_not_predicted():
    assert HARDWARE["TPU v4"].reaches(4096)
    assert not HARDWARE["TPU v4"].reaches(8192)
    assert HARDWARE["H100 SXM"].reaches(10**6)

import numpy as np
import pytest

from ddpm_jax.data.findings import Findings, check_levels, listed, scaling, sentence
from ddpm_jax.data.pictures import ON_WHITE, TO_GREY, Decoded
from ddpm_jax.errors import UserError

SHAPE = (8, 16, 1)


def decoded(size=(8, 16), bits=8, greatest=200.0, changes=()) -> Decoded:
    return Decoded(np.zeros(SHAPE, np.uint8), size, bits, greatest, changes)


def test_changes_are_counted_once_for_each_example():
    findings = Findings("data", SHAPE, 3)
    for index in (0, 1, 1, 2):
        changes = (ON_WHITE,) if index == 2 else (ON_WHITE, TO_GREY)
        findings.add(index, decoded(changes=changes))
    assert findings.changes() == {ON_WHITE: 3, TO_GREY: 2}


SIZES = {
    (8, 16): [],
    (16, 32): ["reduced to 8×16"],
    (4, 8): ["enlarged to 8×16"],
    (8, 17): ["cropped at the edges"],
    (9, 16): ["cropped at the edges"],
    (64, 64): ["reduced to 8×16", "cropped at the edges"],
    (4, 4): ["enlarged to 8×16", "cropped at the edges"],
    (100, 201): ["reduced to 8×16"],  # less than one pixel of the result is cut off
}


@pytest.mark.parametrize(("size", "expected"), SIZES.items())
def test_a_change_of_the_size_is_named(size, expected):
    assert scaling(size, SHAPE) == expected


@pytest.mark.parametrize(
    ("bits", "greatest", "doubt"),
    [(8, 31, True), (8, 32, False), (16, 4095, True), (16, 32767, True), (16, 32768, False)],
)
def test_low_levels_are_doubted_by_their_bits(bits, greatest, doubt):
    findings = Findings("data", SHAPE, 2)
    findings.add(0, decoded(bits=bits, greatest=greatest))
    findings.add(1, decoded(bits=bits, greatest=0))
    if not doubt:
        findings.check()
        return
    with pytest.raises(UserError, match=f"data in {bits} bits is {greatest} of {2**bits - 1}"):
        findings.check()


def test_levels_whose_white_is_stated_are_never_in_doubt():
    findings = Findings("data", SHAPE, 1)
    findings.add(0, decoded(bits=0, greatest=1))
    findings.check()


def test_a_range_answers_for_one_number_of_bits_only():
    findings = Findings("data", SHAPE, 2, span=(0, 4095))
    findings.add(0, decoded(bits=16, greatest=4095))
    findings.check()
    findings.add(1, decoded(bits=8))
    with pytest.raises(UserError, match="levels of 8 and 16 bits"):
        findings.check()


def test_an_all_black_set_is_asked_about_with_a_possible_range():
    with pytest.raises(UserError, match="or 0 1 to stretch them"):
        check_levels("data", 8, 0)


def test_nothing_to_tell_is_no_line():
    assert sentence("data", lost="", left_out={}, changes={}) is None


def test_the_rarest_of_many_kinds_are_summed_up():
    assert listed({"b": 2, "c": 2, "a": 1_000}) == "1,000 a, 2 b, 2 c"
    many = listed({f".{i:02}": 1 for i in range(20)})
    assert many.endswith(", 1 .11, 8 of other kinds")

"""Names and options: a slip is one clear line, whichever table it concerns."""

import dataclasses
from typing import Any

import pytest

from ddpm_jax.config import Choice
from ddpm_jax.diffusion import (
    PARAMETERIZATIONS,
    make_clipping,
    make_guidance,
    make_objective,
    make_sampler,
    make_schedule,
    make_time_grid,
    make_weighting,
)
from ddpm_jax.tables import defaults_of, options_of

SCHEDULE = make_schedule("linear", 10)
EPS = PARAMETERIZATIONS["eps"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_schedule("cosin", 10), r"unknown schedule 'cosin' \(did you mean cosine\?\)"),
        (lambda: make_schedule("linear", 10, beta_t=0.1), r"no 'beta_t' \(did you mean beta_T\?\)"),
        (lambda: make_weighting("minsnr", EPS), r"\(did you mean min_snr\?\)"),
        (lambda: make_weighting("p2", EPS, gama=1), r"\(did you mean gamma\?\): it takes gamma, k"),
        (lambda: make_sampler("dddpm", SCHEDULE), r"\(did you mean ddpm\?\)"),
        (lambda: make_sampler("zzz", SCHEDULE), "'zzz': known are ddpm, ddpm-beta, ddim"),
        (lambda: make_sampler("ddpm", SCHEDULE, eta=0.5), "'ddpm' takes no 'eta': it takes varian"),
        (lambda: make_sampler("ddpm-beta", SCHEDULE, eta=0.5), "no 'eta': it takes no options"),
        (lambda: make_sampler("ddpm", SCHEDULE, variance="fixed"), "unknown variance 'fixed'"),
        (lambda: make_objective("simpel", SCHEDULE, EPS), r"\(did you mean simple\?\)"),
        (lambda: make_objective("simple", SCHEDULE, EPS, los="l1"), "takes no 'los'"),
        (lambda: make_objective("simple", SCHEDULE, EPS, loss="l3"), "unknown loss 'l3'"),
        (
            lambda: make_clipping("clipp", SCHEDULE),
            r"clipping 'clipp' \(did you mean clip\?",
        ),
        (
            lambda: make_clipping("clip", SCHEDULE, lo=0),
            r"mean low\?\): it takes low, high",
        ),
        (lambda: make_guidance("classifier-free", SCHEDULE), r"\(did you mean classifier_free\?\)"),
        (lambda: make_guidance("classifier_free", SCHEDULE, phi=1), "'phi': it takes rescale"),
        (lambda: make_time_grid("stride", SCHEDULE, 5), r"unknown time grid .*mean strided\?\)"),
        (lambda: make_sampler("ddim", SCHEDULE, etta=0.5), r"\(did you mean eta\?\): it takes eta"),
        (lambda: make_sampler("ddim", SCHEDULE, eta=1.5), "eta is 1.5: it must lie between"),
    ],
)
def test_a_slip_is_named_and_mended(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_choice_can_not_be_changed():
    choice = Choice("cosine", s=0.008)
    with pytest.raises(AttributeError, match="immutable; make another one instead of setting name"):
        choice.name = "linear"
    with pytest.raises(TypeError):
        choice.options["s"] = 1  # type: ignore[index]


def test_a_row_takes_its_own_options_and_refuses_those_of_others():
    rows: list[tuple[str, Any, Any]] = [
        ("linear", {"beta_1": 1e-3, "beta_T": 0.03}, {"s": 0.01}),
        ("cosine", {"s": 0.01}, {"beta_T": 0.03}),
    ]
    for name, own, other in rows:
        assert (make_schedule(name, 10, **own).beta != make_schedule(name, 10).beta)[1:].any()
        with pytest.raises(ValueError, match=f"schedule '{name}' takes no '{next(iter(other))}'"):
            make_schedule(name, 10, **own, **other)


def test_a_row_may_be_an_object_that_can_not_be_hashed():
    @dataclasses.dataclass
    class Scaled:
        factor: float

        def __call__(self, x, *, power: int = 2):
            return self.factor * x**power

    with pytest.raises(TypeError, match="unhashable"):
        hash(Scaled(2.0))
    assert options_of(Scaled(2.0)) == ["power"]
    assert defaults_of(Scaled(3.0)) == {"power": 2}

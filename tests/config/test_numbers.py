"""No number that someone types ends in a traceback: a line refuses it, or it can be traced."""

import contextlib
import dataclasses
import math
import typing
from collections.abc import Mapping

import jax
import pytest

from ddpm_jax.config import (
    Choice,
    Config,
    DataConfig,
    DiffusionConfig,
    DigitsData,
    MlpConfig,
    ModelConfig,
    PictureData,
    SampleConfig,
    TrainConfig,
    UNetConfig,
    override,
    settings,
)
from ddpm_jax.config.choices import ChoiceField, choice_fields
from ddpm_jax.config.values import members
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.sampling.chain import SampleProgram
from ddpm_jax.training.step import make_train_step, step_layouts

WHOLE = (10**5000, -1, 0, 2**31, 2**32, 2**63, 2**64, 10**400)
FLOATS = (math.inf, -math.inf, math.nan, 1e-320, 1e39, -1e300, 2.5)
BASE = Config(
    data=DigitsData(),
    model=MlpConfig(width=4, layers=1, num_classes=10),
    diffusion=DiffusionConfig(schedule="cosine", timesteps=4),
    train=TrainConfig(steps=4, batch_size=2, label_dropout=0.5),
    sample=SampleConfig(num=2, batch_size=2, clipping="none"),
)
_UNET = {"channels": 4, "multipliers": (1, 2), "attention": (8,)}
SMALL = {"unet": _UNET, "unet_encoder": _UNET}


def configs():
    """Yields configs that have every network, every kind of data, and every row of every table."""
    yield BASE  # First, so that it has the settings that all share: it is traced fast.
    for cls in typing.get_args(ModelConfig):
        yield dataclasses.replace(BASE, model=cls(**SMALL.get(cls.kind, {}), num_classes=10))
    for cls in typing.get_args(DataConfig):
        size = {"image_size": (8, 8)} if cls is PictureData else {}
        yield dataclasses.replace(BASE, data=cls(**size))  # type: ignore[arg-type]
    for section in ("diffusion", "optimizer", "train", "sample"):
        for name, field in choice_fields(getattr(BASE, section)).items():
            # Several choices together have settings of their own: BASE has them.
            for row in field.table if isinstance(field, ChoiceField) else ():
                # Only a U-Net sees something besides x_t.
                unet = dataclasses.replace(BASE, model=UNetConfig(**_UNET, num_classes=10))
                yield override(unet if name == "condition" else BASE, {f"{section}.{name}": row})


def numeric():
    """Yields configs with the settings that hold numbers, each setting of each row once."""
    seen = set()
    for config in configs():
        for setting in settings(config):
            value = setting.default
            owner = config
            for part in setting.name.split(".")[:-1]:
                owner = owner[part] if isinstance(owner, Mapping) else getattr(owner, part)
            key = setting.name, getattr(owner, "name", type(owner))
            several = isinstance(value, tuple) and value and type(value[0]) is int
            is_number = any(kind in (int, float) for kind in members(setting.type))
            if isinstance(owner, Choice) and setting.name.rpartition(".")[2] not in owner.options:
                continue
            if key not in seen and (several or is_number):
                seen.add(key)
                yield pytest.param(config, setting.name, value, id=f"{key[0]}-{key[1]}")


@contextlib.contextmanager
def refusal(name: str):
    """Accepts what raises nothing, and a UserError of one short line with the setting's name."""
    problem = None
    try:
        yield
    except UserError as error:
        problem = str(error)
    assert problem is None or (name in problem and "\n" not in problem and len(problem) < 400)


@pytest.fixture(scope="module", autouse=True)
def references():
    """Plain operations: they are traced three times faster, and tests/ops compares them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDPM_JAX_OPS", "reference")
        yield


def is_traced(config: Config) -> None:
    """Traces a training step, and plans a chain."""
    experiment, mesh = build(config), make_mesh(1, jax.devices()[:1])
    jax.eval_shape(make_train_step(experiment), *step_layouts(experiment, mesh))
    SampleProgram(experiment, mesh, config.sample)


@pytest.mark.parametrize(("config", "name", "value"), list(numeric()))
def test_a_hostile_number_is_refused_in_a_line_that_names_its_setting_or_can_be_traced(
    config, name, value
):
    last = name.rpartition(".")[2]
    accepted = {}
    for number in (*FLOATS, *WHOLE):
        given = (*value[:-1], number) if isinstance(value, tuple) else number
        with refusal(last):
            accepted[number] = override(config, {name: given})
    for new in list(accepted.values())[-1:]:
        is_traced(new)
    # What float32 can't hold is never accepted.
    assert not {*FLOATS[:-1], 10**5000} & set(accepted)


@pytest.mark.parametrize(("config", "name", "value"), list(numeric()))
def test_a_config_in_python_refuses_them_too(config, name, value):
    section, _, field = name.partition(".")
    if "." in field:
        pytest.skip("a choice's option: `override` makes the same Choice")
    for number in (*WHOLE, *FLOATS):
        given = (*value[:-1], number) if isinstance(value, tuple) else number
        with refusal(field or name):
            if field:
                part = dataclasses.replace(getattr(config, section), **{field: given})
                new = dataclasses.replace(config, **{section: part})
            else:
                new = dataclasses.replace(config, **{name: given})
            assert override(new, {}) == new, number

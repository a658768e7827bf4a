"""The README's code runs, its commands exist, and its tables are complete."""

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import ddpm_jax
from ddpm_jax import cli
from ddpm_jax.cli import sample as sample_command
from ddpm_jax.cli import train
from ddpm_jax.cli.arguments import read_command, settings_of
from ddpm_jax.cli.flags import read
from ddpm_jax.cli.sample import Options
from ddpm_jax.config import SampleConfig
from ddpm_jax.diffusion import (
    PARAMETERIZATIONS,
    at,
    make_sampler,
    make_schedule,
    plan_chain,
    predict,
    sample,
    sample_noise,
)
from ddpm_jax.diffusion.samplers import contract
from ddpm_jax.diffusion.schedules import indexed

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_functional_example_ends_at_its_data():
    (code,) = [block for block in blocks("python") if "def denoiser" in block]
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["x_0"].shape == (8, 32, 32, 3)
    # The example's data lies at the origin, and its denoiser is exact.
    np.testing.assert_allclose(jax.numpy.abs(names["x_0"]).max(), 0, atol=1e-4)


def test_an_array_in_memory_is_trained_on(monkeypatch):
    (code,) = [block for block in blocks("python") if "ArraySource(" in block]
    asked = []
    monkeypatch.setattr(ddpm_jax, "train", lambda *words, **given: asked.append((words, given)))
    names: dict = {"ddpm_jax": ddpm_jax, "labels": np.array([0, 1, 1, 0])}
    names["images"] = np.zeros((4, 32, 32, 3), np.uint8)
    exec(compile(code, "README.md", "exec"), names)
    ((config, folder), given) = asked[0]
    assert (config.model.num_classes, folder) == (2, "runs/in_memory")
    assert config.data.example_shape == given["source"].shape


def test_the_minimal_sampler_of_the_architecture_page_is_ddim():
    page = (ROOT / "ddpm_jax" / "README.md").read_text()
    (code,) = [
        it for it in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def euler" in it
    ]
    names: dict = vars(contract) | {"np": np, "at": at, "indexed": indexed}
    exec(compile(code, "ddpm_jax/README.md", "exec"), names)
    schedule = make_schedule("cosine", 20)
    keys = jax.random.split(jax.random.key(0), 4)
    x_T = sample_noise(keys, (3,))

    def denoiser(x_t, t):
        x_0 = jax.numpy.tanh(x_t)
        return predict(PARAMETERIZATIONS["x_0"], schedule, x_0, x_t=x_t, t=t)

    def drawn(sampler, times):
        assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(sampler.plan(times)))
        rows = plan_chain(sampler, schedule, times)
        return sample(sampler, denoiser, x_T, rows=rows, keys=keys)[0]

    for times in (np.array([20, 9, 4, 0]), np.array([19.5, 7.25, 0.0])):
        expected = drawn(make_sampler("ddim", schedule), times)
        np.testing.assert_allclose(drawn(names["euler"](schedule), times), expected, atol=1e-5)


def typed() -> list[list[str]]:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    return [shlex.split(line[2:], comments=True) for line in lines if line.startswith("$ ddpm")]


def commands() -> list[list[str]]:
    return typed() + [
        shlex.split(it.replace("\\|", "|")) for it in re.findall(r"`(ddpm [^`]*)`", README)
    ]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_exists(words):
    assert words[1] in cli.COMMANDS
    for word in words[2:]:
        if word.startswith("configs/"):
            assert (ROOT / word).is_file()


def test_what_is_typed_is_a_config_of_a_folder_of_its_own():
    """No command finds another one's run in its folder, or a setting that does not exist."""
    configs: dict[str, Any] = {}
    for _, command, *words in typed():
        if command == "train":
            asked = read_command("ddpm train", "CONFIG", words, train.Options)
            folder = asked.options.workdir or f"runs/{Path(asked.target).stem}"
            assert configs.setdefault(folder, asked.config) == asked.config, words
    assert len(configs) > 10


def test_what_is_typed_after_sample_are_its_flags():
    drawn = [words for _, command, *words in typed() if command == "sample"]
    for run, *words in drawn:
        assert len(read(f"ddpm sample {run}", words, sample_command.flags())) > 0, words
    assert len(drawn) > 10


def test_every_config_has_its_row():
    for path in (ROOT / "configs").glob("*.py"):
        assert f"configs/{path.name}" in README


def test_every_setting_of_sample_is_told():
    """The options of rows are told by the help, so that a new row needs no edit here."""
    section = [field.name for field in dataclasses.fields(SampleConfig)]
    for name in [*(each.name for each in settings_of(Options)), *section]:
        assert f"--{name}" in README


def test_the_architecture_page_names_tests_that_exist():
    page = (ROOT / "ddpm_jax" / "README.md").read_text()
    table = page[page.index("| to add a") : page.index("## Files")]
    named = re.findall(r"`([\w/]*test_\w+\.py)`", table)
    assert len(named) > 15
    assert [name for name in named if not (ROOT / "tests" / name).is_file()] == []

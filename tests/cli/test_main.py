"""Dispatch: commands as a table, exit codes, and answers that need no JAX."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from ddpm_jax import cli
from ddpm_jax.cli.sample import Options, flags
from ddpm_jax.config import SampleConfig, settings
from ddpm_jax.diffusion import SAMPLERS


@pytest.mark.parametrize("words", [["--help"], ["sampel"], ["--version"]])
def test_help_and_a_mistyped_command_import_neither_jax_nor_tyro(words):
    code = (
        f"import sys, ddpm_jax.cli as cli; cli.main({words!r});"
        "sys.exit(any(name in sys.modules for name in ('jax', 'tyro', 'flax', 'matplotlib')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_command_added_from_outside_is_run_and_listed(monkeypatch, capsys):
    added = cli.Command(lambda words: 3 if words == ["a", "--b"] else 4, "THING", "does a thing")
    monkeypatch.setitem(cli.COMMANDS, "added", added)
    assert cli.main(["added", "a", "--b"]) == 3
    assert cli.main(["--help"]) == 0
    assert "ddpm added THING" in capsys.readouterr().out
    assert cli.main(["addedd"]) == 2
    assert "did you mean added?" in capsys.readouterr().err


def test_sample_takes_every_setting_of_its_section():
    names = {each.name for each in flags()}
    section = {each.name.rpartition(".")[2] for each in settings(SampleConfig())}
    assert section == names - {each.name for each in settings(Options())}
    assert {"sampler", "eta", "steps", "clipping", "guidance", "num", "batch_size"} <= section


def test_sample_takes_the_options_of_a_sampler_added_from_outside(monkeypatch):
    def added(schedule, *, steepness: float = 2.0):
        return SAMPLERS["ddpm"](schedule)

    monkeypatch.setitem(SAMPLERS, "added", added)
    assert "steepness" in {each.name for each in flags()}


def test_a_variable_that_jax_can_t_read_is_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "ddpm_jax.cli", "info", "digits"],
        env={**os.environ, "JAX_ENABLE_X64": "maybe"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("ddpm: JAX can't be imported: invalid truth value 'maybe'")
    assert "JAX_ENABLE_X64" in line


def test_a_nan_under_debug_nans_is_one_line(monkeypatch, capsys):
    def command(words):
        with jax.debug_nans(True):
            return int(jnp.zeros(()) / 0)

    monkeypatch.setitem(cli.COMMANDS, "added", cli.Command(command, "", ""))
    assert cli.main(["added"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ddpm: invalid value (nan)")
    assert line.endswith("JAX_DEBUG_NANS or JAX_DEBUG_INFS stopped here")

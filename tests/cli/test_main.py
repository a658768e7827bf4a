"""Dispatch: commands as a table, exit codes, and answers that need no JAX."""

import subprocess
import sys

import pytest

from ddpm_jax import cli
from ddpm_jax.cli.sample import flags
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
    assert section == names - {"seed", "labels", "checkpoint", "params", "output"}
    assert {"sampler", "eta", "steps", "clipping", "guidance", "num", "batch_size"} <= section


def test_sample_takes_the_options_of_a_sampler_added_from_outside(monkeypatch):
    def added(schedule, *, steepness: float = 2.0):
        return SAMPLERS["ddpm"](schedule)

    monkeypatch.setitem(SAMPLERS, "added", added)
    assert "steepness" in {each.name for each in flags()}

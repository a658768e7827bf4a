"""A trace names the steps that were asked for, and changes no bit of the run."""

import gzip
import json

import pytest

from ddpm_jax.cli import main
from ddpm_jax.errors import UserError
from ddpm_jax.files import storage_path
from ddpm_jax.training.profiling import make_profile
from ddpm_jax.training.train import train
from tests.reports.conftest import POINTS
from tests.tiny import assert_same


def traced_steps(folder):
    (path,) = folder.rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))
    events = events["traceEvents"] if isinstance(events, dict) else events
    named = [each["args"] for each in events if each.get("name") == "train" and "args" in each]
    return sorted({int(args["step_num"]) for args in named if "step_num" in args})


@pytest.mark.usefixtures("one_device")
def test_a_trace_has_its_steps_and_the_run_its_bits(tmp_path):
    said = []
    plain, traced = (
        train(POINTS, tmp_path / name, profile=profile, report=said.append)
        for name, profile in (("plain", None), ("traced", 2))
    )
    assert traced_steps(tmp_path / "traced" / "profile") == [1, 2]
    assert list((tmp_path / "traced" / "profile").rglob("*.xplane.pb"))
    assert not (tmp_path / "plain" / "profile").exists()
    assert sum("xprof --logdir" in line for line in said) == 1
    assert_same(plain.run.params, traced.run.params)


def test_a_trace_that_the_run_cuts_short_is_written_all_the_same(tmp_path):
    made = make_profile(storage_path(tmp_path), 100, lambda line: None)
    for step in range(3):
        with made.step(step):
            pass
        made.made(step + 1, ())
    made.close()
    made.close()
    assert traced_steps(tmp_path / "profile") == [1, 2]


def test_what_can_not_be_traced_is_refused(tmp_path, capsys):
    assert main(["train", "swiss_roll", "--workdir", str(tmp_path / "a"), "--profile", "0"]) == 2
    assert "profile is 0; it must be at least 1" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    with pytest.raises(UserError, match="is in a bucket"):
        make_profile(storage_path("gs://bucket/run"), 1, print)

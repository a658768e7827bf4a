"""A run that is finished, or started again with other settings or a damaged config.json."""

import contextlib
import dataclasses
import json
import re
import shutil

import pytest

import ddpm_jax
from ddpm_jax.errors import UserError
from ddpm_jax.training.logging.run_logger import read_rows
from ddpm_jax.training.pictures import Pictures
from ddpm_jax.training.train import train
from tests.tiny import assert_same, changed
from tests.training.test_train import SHORT, quick

__all__ = ["quick"]

pytestmark = pytest.mark.usefixtures("one_device")


def tree(folder):
    """Every file of a folder: what it holds and when it was written."""
    paths = (item for item in sorted(folder.rglob("*")) if item.is_file())
    return {str(item): (item.read_bytes(), item.stat().st_mtime_ns) for item in paths}


def finished(folder, config=SHORT):
    result = train(config, folder)
    for name in ("samples.png", "denoising.gif", "loss.png"):
        (folder / name).touch()
    return result


def test_a_finished_run_says_so_and_is_left_as_it_is(tmp_path):
    made, lines = finished(tmp_path), []
    before = tree(tmp_path)
    for config, more in (
        (SHORT, ""),
        (changed(SHORT, sample={"num": 3}), "; without effect: sample.num"),
    ):
        again = train(config, tmp_path, report=lines.append)
        said = f"{tmp_path} is finished, with all its 4 steps; to go on, raise train.steps{more}"
        assert lines.pop() == said
        assert not lines
        assert tree(tmp_path) == before
        assert (again.start, again.step, again.signal) == (4, 4, None)
        assert_same(again.run.params, made.run.params)
    assert (made.start, made.step) == (0, 4)


@pytest.mark.parametrize("name", ["samples.png", "denoising.gif", "loss.png"])
def test_pictures_that_a_kill_prevented_are_drawn_at_the_next_start(name, tmp_path, monkeypatch):
    drawn = []
    finished(tmp_path)
    (tmp_path / name).unlink()
    monkeypatch.setattr(Pictures, "finish", lambda self, state: drawn.append(int(state.step)))
    train(SHORT, tmp_path)
    assert drawn == [4]


REFUSED = {
    "another seed": (
        {"seed": 1},
        "holds a run with seed = 0, and this config has 1; choose another folder, or put",
    ),
    "another seed and more steps": ({"seed": 1, "train": {"steps": 8}}, "seed = 0, and this"),
    "fewer steps": (
        {"train": {"steps": 3}},
        "has made 4 steps, and train.steps is 3; set it to 4 or more, or choose another folder",
    ),
}


@pytest.mark.parametrize("change", REFUSED)
def test_another_seed_and_fewer_steps_are_refused(change, tmp_path):
    settings, says = REFUSED[change]
    finished(tmp_path)
    before = tree(tmp_path)
    sections = {name: value for name, value in settings.items() if name != "seed"}
    config = dataclasses.replace(changed(SHORT, **sections), seed=settings.get("seed", 0))
    with pytest.raises(UserError, match=says) as told:
        train(config, tmp_path)
    assert len(str(told.value).splitlines()) == 1
    assert tree(tmp_path) == before


COURSES = {
    "cosine": ({"decay": "cosine"}, {}, r"goes from 0\.000146 to 0\.0005 at step 4"),
    "linear": ({"decay": "linear"}, {}, r"goes from 0\.00025 to 0\.0005 at step 4"),
    "another rate": ({}, {"learning_rate": 2e-3}, r"goes from 0\.001 to 0\.002 at step 4"),
    "constant": ({}, {}, None),
}


@pytest.mark.parametrize("course", COURSES)
def test_a_learning_rate_that_jumps_is_told_with_both(course, tmp_path):
    settings, changes, says = COURSES[course]
    lines = []
    config = changed(SHORT, optimizer={"learning_rate": 1e-3, **settings})
    train(config, tmp_path)
    longer = changed(config, train={"steps": 8}, optimizer=changes)
    train(longer, tmp_path, report=lines.append)
    told = [line for line in lines if "learning rate" in line]
    assert len(told) == (says is not None)
    assert says is None or re.search(says, told[0])
    if told:
        rates = {row["step"]: row["learning_rate"] for row in read_rows(tmp_path / "metrics.jsonl")}
        assert f"from {rates[4]:.3g} to " in told[0]


CONFIGS = {
    "NULs": (lambda good: b"\0" * len(good), "is not valid JSON"),
    "half": (lambda good: good[: len(good) // 2], "is not valid JSON"),
    "empty": (lambda good: b"", "is not valid JSON"),
    "not UTF-8": (lambda good: good.replace(b"seed", b"s\xffed"), "is not valid JSON"),
    "another system's": (lambda good: b"\xef\xbb\xbf" + good.replace(b"\n", b"\r\n"), None),
    "lost": (None, None),
}


@pytest.mark.parametrize("damage", CONFIGS)
def test_a_damaged_config_json_costs_a_line_and_is_written_anew(damage, tmp_path):
    spoil, says = CONFIGS[damage]
    train(SHORT, tmp_path)
    path, lines = tmp_path / "config.json", []
    path.unlink() if spoil is None else path.write_bytes(spoil(path.read_bytes()))
    longer = changed(SHORT, train={"steps": 8})
    train(longer, tmp_path, report=lines.append)
    told = [line for line in lines if str(path) in line]
    assert len(told) == (says is not None)
    assert says is None or says in told[0]
    assert "train.steps: 4 -> 8" in lines
    assert ddpm_jax.config.loads(path.read_bytes()) == longer


def test_dispatches_that_do_not_meet_the_step_are_refused(tmp_path):
    train(SHORT, tmp_path)
    uneven = {"steps": 12, "steps_per_dispatch": 3, "save_every": 6, "log_every": 6}
    with pytest.raises(UserError, match="steps_per_dispatch is 3; it must divide step 4, where"):
        train(changed(SHORT, train=uneven), tmp_path)


def test_a_config_json_of_a_newer_version_is_refused_with_both(tmp_path):
    train(SHORT, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"config\.json: format is 99, and ddpm_jax \S+, installed"):
        train(changed(SHORT, train={"steps": 8}), tmp_path)
    assert tree(tmp_path) == before


def test_a_run_that_another_process_saved_in_before_it_let_go_is_not_gone_on_from(
    tmp_path, monkeypatch
):
    train(SHORT, tmp_path)

    @contextlib.contextmanager
    def lock(folder, **options):
        del options
        shutil.copytree(folder / "checkpoints" / "4", folder / "checkpoints" / "6")
        yield

    monkeypatch.setattr("ddpm_jax.training.train.exclusive", lock)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"another process saved in .* meanwhile; run the same"):
        train(changed(SHORT, train={"steps": 8}), tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_folder_that_not_all_processes_see_is_refused(tmp_path, monkeypatch):
    train(SHORT, tmp_path)
    monkeypatch.setattr("ddpm_jax.runtime.distributed.allgather", lambda *_: [True, False, False])
    with pytest.raises(
        UserError, match=r"process 0 finds checkpoint 4 in .* process\(es\) 1, 2 see"
    ):
        train(changed(SHORT, train={"steps": 8}), tmp_path)

import errno
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddpm_jax
from ddpm_jax.checkpoints import checkpoint
from ddpm_jax.checkpoints.best import Best
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.config import FORMAT, Choice
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import mesh
from ddpm_jax.runtime.distributed import versions
from ddpm_jax.runtime.mesh import with_shardings
from ddpm_jax.training.step import state_layout
from tests.tiny import TINY, StepLoop, assert_same, changed


@pytest.fixture(scope="module")
def trainer():
    return StepLoop()


def keep_all(checkpoints, step, state):
    checkpoints.save(step, state, TINY, keep=99, keep_every=None)
    checkpoints.wait()


@pytest.fixture(scope="module")
def saved(trainer, tmp_path_factory):
    """A folder with the checkpoints of steps 2 and 4, and the states themselves."""
    run = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(run)
    states, state = {}, trainer.init()
    for step in (2, 4):
        state, _ = trainer.run(state, 2)
        keep_all(checkpoints, step, state)
        states[step] = jax.tree.map(np.asarray, state)
    checkpoints.close()
    return run, states


@pytest.fixture
def copy(saved, tmp_path):
    """A copy to damage, the lines reported, and its checkpoints."""
    shutil.copytree(saved[0], tmp_path / "run")
    lines = []
    return tmp_path / "run", lines, Checkpoints(tmp_path / "run", report=lines.append)


def test_a_state_comes_back_bit_for_bit(saved, trainer):
    run, states = saved
    checkpoints = Checkpoints(run)
    assert checkpoints.steps() == [2, 4]
    assert checkpoints.newest_good() == 4
    layout = state_layout(trainer.experiment, trainer.mesh)
    for step, state in states.items():
        restored = checkpoints.restore(step, layout)
        assert type(restored) is type(state)
        assert_same(restored, state)


@pytest.mark.parametrize(("devices", "fsdp"), [(8, 1), (8, 2), (4, 4)])
def test_a_state_comes_back_on_any_mesh(saved, devices, fsdp):
    run, states = saved
    other = StepLoop(changed(TINY, mesh={"fsdp": fsdp}), devices)
    layout = state_layout(other.experiment, other.mesh)
    restored = Checkpoints(run).restore(4, layout)
    assert_same(restored, states[4])
    for leaf, aim in zip(jax.tree.leaves(restored), jax.tree.leaves(layout), strict=True):
        assert leaf.sharding == aim.sharding


def test_a_state_of_eight_devices_comes_back_on_one(tmp_path):
    # The history of importance sampling is a part of the state.
    config = changed(TINY, train={"timestep_sampler": Choice("importance", history=2)})
    eight = StepLoop(changed(config, mesh={"fsdp": 4}), 8)
    state, _ = eight.run(eight.init(), 1)
    assert np.asarray(state.timesteps.losses).any()
    checkpoints = Checkpoints(tmp_path)
    keep_all(checkpoints, 1, state)
    checkpoints.close()
    one = StepLoop(config)
    assert_same(checkpoints.restore(1, state_layout(one.experiment, one.mesh)), state)


def test_the_average_is_restored_alone(saved, trainer):
    run, states = saved
    layout = {"ema.ema": state_layout(trainer.experiment, trainer.mesh).ema["ema"]}
    restored = Checkpoints(run).restore(4, layout)
    assert list(restored) == ["ema.ema"]
    assert_same(restored["ema.ema"], states[4].ema["ema"])


def test_an_array_of_another_type_is_named_and_not_cast(saved, trainer):
    layout = {"params": state_layout(trainer.experiment, trainer.mesh).params}

    def half(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16, sharding=leaf.sharding)

    with pytest.raises(UserError, match=r"params\..* as float32\[.*\], .* bfloat16\["):
        Checkpoints(saved[0]).restore(4, jax.tree.map(half, layout))


def test_a_checkpoint_describes_itself(saved):
    assert Checkpoints(saved[0]).config(4) == TINY
    meta = json.loads((saved[0] / "checkpoints/4/meta.json").read_text())
    assert meta["step"] == 4
    assert meta["format"] == FORMAT
    assert meta["versions"]["jax"] == jax.__version__


@pytest.mark.parametrize("fsdp", [1, 2])
def test_what_this_code_wrote_is_laid_out_without_a_trace(saved, fsdp, monkeypatch):
    monkeypatch.setattr(mesh, "_SMALLEST_SPLIT", 1)
    other = StepLoop(changed(TINY, mesh={"fsdp": fsdp}), 2)
    expected = state_layout(other.experiment, other.mesh)
    checkpoints = Checkpoints(saved[0])
    for field, layout in (("params", expected.params), ("ema.ema", expected.ema["ema"])):
        assert with_shardings(checkpoints.shapes(4, field), other.mesh) == layout
    with monkeypatch.context() as patch:
        patch.delattr("ddpm_jax.experiment.Experiment.init_params")
        assert_same(ddpm_jax.load(saved[0], checkpoint=4).params, saved[1][4].ema["ema"])
    monkeypatch.setattr(checkpoint, "versions", lambda: versions() | {"flax": "0.1"})
    assert checkpoints.shapes(4, "ema.ema") is None
    assert_same(ddpm_jax.load(saved[0], checkpoint=4).params, saved[1][4].ema["ema"])
    monkeypatch.delattr("ddpm_jax.experiment.Experiment.init_params")
    with pytest.raises(AttributeError, match="init_params"):
        ddpm_jax.load(saved[0], checkpoint=4)


def test_one_without_a_list_of_its_arrays_is_refused(copy, trainer):
    run, _, checkpoints = copy
    (run / "checkpoints/4/arrays.json").unlink()
    with pytest.raises(UserError, match=r"/4 has no arrays.json: it was written by other code; go"):
        checkpoints.restore(4, state_layout(trainer.experiment, trainer.mesh))


def test_a_new_folder_has_none(tmp_path):
    assert Checkpoints(tmp_path / "nothing").newest_good() is None
    assert not (tmp_path / "nothing").exists()


def files(folder):
    return sorted(item for item in folder.rglob("*") if item.is_file())


def damages(path):
    data = path.read_bytes()
    flipped = bytearray(data)
    if data:
        flipped[len(data) // 2] ^= 1
        yield lambda: path.write_bytes(flipped)
        yield lambda: path.write_bytes(data[: len(data) // 2])
    yield path.unlink


def test_every_damage_is_named_and_the_older_one_used(copy):
    run, lines, checkpoints = copy
    newest = run / "checkpoints/4"
    spare = run / "spare"
    shutil.copytree(newest, spare)
    names = [item.relative_to(newest) for item in files(newest)]
    assert len(names) > 5
    for name in names:
        for number in range(3):
            ways = list(damages(newest / name))
            if number < len(ways):
                ways[number]()
                assert checkpoints.newest_good() == 2, name
                assert str(newest) in lines[-1]
                assert "\n" not in lines[-1]
                shutil.rmtree(newest)
                shutil.copytree(spare, newest)
    assert checkpoints.newest_good() == 4


def test_an_empty_folder_is_not_a_checkpoint(copy):
    run, lines, checkpoints = copy
    (run / "checkpoints/7").mkdir()
    assert checkpoints.newest_good() == 4
    assert "checkpoints/7 is damaged" in lines[0]


def test_a_checkpoint_under_another_number_is_passed_over(copy):
    run, lines, checkpoints = copy
    shutil.copytree(run / "checkpoints/4", run / "checkpoints/6")
    assert checkpoints.newest_good() == 4
    assert lines == [f"checkpoint {run}/checkpoints/6 is damaged: it is the checkpoint of step 4"]
    assert [checkpoints.newest_good(at_most=step) for step in (2, 3, 4, 5)] == [2, 2, 4, 4]
    assert checkpoints.newest_good(at_most=1) is None


def test_what_a_kill_left_is_not_seen_and_goes_with_the_next_save(copy, trainer):
    run, lines, checkpoints = copy
    torn = run / "checkpoints/9.tmp/state"
    torn.mkdir(parents=True)
    (torn / "half").write_text("x")
    assert checkpoints.newest_good() == 4
    assert not lines
    keep_all(checkpoints, 6, trainer.init())
    checkpoints.close()
    assert sorted(item.name for item in (run / "checkpoints").iterdir()) == ["2", "4", "6"]


def test_none_good_is_an_error_and_never_a_fresh_start(copy):
    run, _, checkpoints = copy
    for step in (2, 4):
        (run / f"checkpoints/{step}/checksums.json").unlink()
    with pytest.raises(UserError, match="no good checkpoint is left"):
        checkpoints.newest_good()


def test_a_damaged_one_is_written_anew(copy, trainer):
    run, _, checkpoints = copy
    (run / "checkpoints/4/meta.json").unlink()
    assert checkpoints.newest_good() == 2
    keep_all(checkpoints, 4, trainer.init())
    checkpoints.close()
    assert checkpoints.newest_good() == 4


def test_a_step_that_was_asked_for_must_be_there_and_good(copy):
    run, _, checkpoints = copy
    assert checkpoints.newest_good(2) == 2
    with pytest.raises(UserError, match="has no checkpoint 3; it has 2, 4"):
        checkpoints.newest_good(3)
    (run / "checkpoints/2/meta.json").unlink()
    with pytest.raises(UserError, match=r"checkpoints/2 is damaged: .* name another: 4"):
        checkpoints.newest_good(2)


@pytest.mark.parametrize(("keep", "every"), [(1, None), (2, None), (2, 3), (2, 4), (3, 1)])
def test_the_last_few_and_every_nth_are_kept(tmp_path, keep, every):
    checkpoints, steps = Checkpoints(tmp_path), range(1, 9)
    for step in steps:
        checkpoints.save(step, {"w": jnp.ones(3)}, TINY, keep=keep, keep_every=every)
    checkpoints.close()
    kept = {*steps[-keep:], *(step for step in steps if every and step % every == 0)}
    assert checkpoints.steps() == sorted(kept)


def test_the_best_is_kept_for_ever_and_one_that_was_only_the_best_until_there_is_a_better(tmp_path):
    checkpoints, weights = Checkpoints(tmp_path), {"w": jnp.ones(3)}
    assert checkpoints.best() is None
    best = {2: Best(2, "x", 0.5, True), 3: Best(3, "x", 0.4, False), 6: Best(6, "x", 0.3, False)}
    found = []
    for step in range(1, 11):
        checkpoints.save(step, weights, TINY, keep=2, keep_every=None, best=best.get(step))
        checkpoints.wait()
        found.append(checkpoints.steps())
    assert found[1:7] == [[1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6], [5, 6, 7]]
    assert found[9] == [6, 9, 10]
    assert checkpoints.best() == best[6]
    assert Checkpoints(tmp_path).newest_good("best") == 6
    # A finished checkpoint may be marked later; no mark leaves what there is.
    checkpoints.mark_best(Best(9, "x", 0.2, False))
    assert checkpoints.steps() == [9, 10]
    checkpoints.mark_best(None)
    assert checkpoints.steps() == [9, 10]
    assert checkpoints.best() is None
    checkpoints.close()


NO_VALUE = '{"step": 4, "name": "x", "value": null, "scheduled": true}'


@pytest.mark.parametrize("text", ["", "[]", "{", '{"step": 1}', "\0\0", NO_VALUE])
def test_a_mark_of_the_best_that_can_not_be_read_is_none(copy, text):
    run, _, checkpoints = copy
    (run / "checkpoints/best.json").write_text(text)
    assert checkpoints.best() is None
    with pytest.raises(UserError, match="has no best checkpoint"):
        checkpoints.newest_good("best")
    checkpoints.mark_best(Best(2, "x", 0.5, True))
    assert checkpoints.newest_good("best") == 2
    shutil.rmtree(run / "checkpoints/2")
    assert checkpoints.best() is None


def test_a_damaged_later_one_does_not_count_among_the_last(tmp_path):
    checkpoints = Checkpoints(tmp_path, report=lambda line: None)
    weights = {"w": jnp.ones(3)}
    for step in (2, 8):
        checkpoints.save(step, weights, TINY, keep=9, keep_every=None)
        checkpoints.wait()
    (tmp_path / "checkpoints/8/meta.json").unlink()
    assert checkpoints.newest_good() == 2
    checkpoints.save(4, weights, TINY, keep=1, keep_every=None)
    checkpoints.close()
    assert checkpoints.newest_good() == 4


def test_a_save_that_fails_says_so_and_leaves_the_older_ones(copy, trainer, monkeypatch):
    run, _, checkpoints = copy

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "_seal", full)
    with pytest.raises(UserError, match="No space left on device"):
        keep_all(checkpoints, 6, trainer.init())
    checkpoints.close()
    assert checkpoints.newest_good() == 4
    assert run.is_dir()


# --- what others put into a run's folder ---

FOREIGN = (
    ".DS_Store",
    "._meta.json",
    ".nfs0000000000a1",
    ".meta.json.swp",
    ".syncthing.meta.json.tmp",
    "Thumbs.db",
    "desktop.ini",
    "@eaDir/meta.json@SynoEAStream",
    "lost+found/x",
    "meta.sync-conflict-20260101-120000-ABCDEFG.json",
    "meta (Anna's conflicted copy 2026-01-01).json",
    "meta.json~",
    "#meta.json#",
    "notes.txt",
)


def litter(folder):
    """Puts every kind of foreign file into a folder and all folders in it."""
    for each in [folder, *(item for item in folder.rglob("*") if item.is_dir())]:
        for name in FOREIGN:
            (each / name).parent.mkdir(exist_ok=True)
            (each / name).write_text("not ours")


def test_what_others_leave_in_a_checkpoint_does_not_damage_it(copy, saved, trainer):
    run, lines, checkpoints = copy
    litter(run)
    assert checkpoints.newest_good() == 4
    assert not lines
    layout = state_layout(trainer.experiment, trainer.mesh)
    assert_same(checkpoints.restore(4, layout), saved[1][4])
    litter(run / "checkpoints/4")
    newest = run / "checkpoints/4/state"
    (newest / "_METADATA").unlink()
    assert checkpoints.newest_good() == 2
    assert lines == [f"checkpoint {newest.parent} is damaged: state/_METADATA is missing"]


def test_what_others_leave_in_a_checkpoint_being_written_is_no_part_of_it(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    written, weights = tmp_path / "checkpoints/3.tmp", {"w": jnp.ones(3)}
    own = []

    def visit():
        own.extend(files(written))
        litter(written)
        (written / "notes.txt").unlink()  # A name that could be anybody's.
        (written / "state/notes.txt").unlink()

    checkpoints.save(3, weights, TINY, keep=9, keep_every=None, before_commit=visit)
    checkpoints.wait()
    sums = tmp_path / "checkpoints/3/checksums.json"
    names = {str(item.relative_to(written)) for item in own} | {"meta.json", "arrays.json"}
    assert {name for name in json.loads(sums.read_text()) if "notes.txt" not in name} == names
    # What another version listed, and its owner took away.
    listed = json.loads(sums.read_text())
    listed = {name: value for name, value in listed.items() if "notes.txt" not in name}
    sums.write_text(json.dumps(listed | {".DS_Store": "0" * 64, "state/@eaDir/x": "0" * 64}))
    for item in files(tmp_path / "checkpoints/3"):
        if str(item.relative_to(tmp_path / "checkpoints/3")) not in {*names, "checksums.json"}:
            item.unlink()
    assert checkpoints.newest_good() == 3
    checkpoints.close()


def test_what_others_leave_beside_checkpoints_is_neither_counted_nor_touched(tmp_path):
    folder = tmp_path / "checkpoints"
    names = ["12 (copy)", "007", "\uff15", "notes.tmp", "10.tmp.bak", "1 2", "6", "-3", "@eaDir"]
    for name in names:
        (folder / name).mkdir(parents=True)
        if name != "6":  # As a synchroniser leaves it.
            (folder / name / "x").write_text("not ours")
    (folder / "5").write_text("a file")
    (folder / "latest").symlink_to("8")
    checkpoints = Checkpoints(tmp_path, report=lambda line: None)
    for step in (7, 8):
        checkpoints.save(step, {"w": jnp.ones(3)}, TINY, keep=1, keep_every=None)
        checkpoints.wait()
    assert checkpoints.newest_good() == 8
    assert {item.name for item in folder.iterdir()} == {*names, "5", "latest", "8"}
    assert all((folder / name / "x").is_file() for name in names if name != "6")
    checkpoints.close()


def test_retention_removes_what_lies_in_a_checkpoint_and_of_a_link_only_the_link(copy):
    run, _, checkpoints = copy
    litter(run / "checkpoints/2")
    (run / "checkpoints/4").rename(run / "moved")
    (run / "checkpoints/4").symlink_to(run / "moved")
    assert checkpoints.newest_good() == 4
    for step in (6, 8):
        checkpoints.save(step, {"w": jnp.ones(3)}, TINY, keep=1, keep_every=None)
        checkpoints.wait()
    assert [item.name for item in (run / "checkpoints").iterdir()] == ["8"]
    assert (run / "moved/meta.json").is_file()
    checkpoints.close()


def test_a_checkpoint_that_can_not_be_removed_costs_a_line_and_no_save(copy, monkeypatch):
    run, lines, checkpoints = copy
    plain = shutil.rmtree

    def busy(path):
        if path.name == "2.tmp-old":
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        plain(path)

    monkeypatch.setattr(shutil, "rmtree", busy)
    for step in (6, 8):
        checkpoints.save(step, {"w": jnp.ones(3)}, TINY, keep=2, keep_every=None)
        checkpoints.wait()
    said = f"checkpoint {run}/checkpoints/2 can't be removed (Device or resource busy)"
    assert lines == [said]
    assert checkpoints.steps() == [6, 8]
    monkeypatch.undo()
    checkpoints.save(10, {"w": jnp.ones(3)}, TINY, keep=2, keep_every=None)
    checkpoints.close()
    assert sorted(item.name for item in (run / "checkpoints").iterdir()) == ["10", "8"]


def test_a_folder_whose_name_is_not_utf_8_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"caf\\xe9.*checkpoints need a path whose bytes are UTF-8"):
        Checkpoints(tmp_path / "caf\udce9")

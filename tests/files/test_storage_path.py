"""Local paths: what a text names, files replaced whole, locked folders, and the cache's folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.files import (
    Remote,
    cache_folder,
    exclusive,
    files_below,
    remove,
    replacing,
    storage_path,
)


def test_a_text_names_a_local_path_or_a_bucket():
    assert storage_path("runs/a") == Path("runs/a")
    assert storage_path("gs://bucket/a") == Remote("gs://bucket/a")
    for path in (Path("a"), Remote("gs://bucket")):
        assert storage_path(path) is path
    with pytest.raises(UserError, match="a folder must be local, or gs://"):
        storage_path("s3://bucket/a")


def test_files_below_a_folder_are_found_at_any_depth(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b" / "c" / ".d"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert sorted(files_below(tmp_path)) == paths
    assert files_below(tmp_path / "none") == []
    remove(tmp_path / "b")
    assert files_below(tmp_path) == paths[:1]


def write_half(path):
    path.write_text("half")
    raise ZeroDivisionError


def test_a_file_is_replaced_only_when_its_writer_has_finished(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".txt"
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with pytest.raises(ZeroDivisionError), replacing(str(path)) as temporary:
        write_half(temporary)
    with replacing(path):
        pass
    assert path.read_text() == "new"
    assert files_below(tmp_path) == [path]


def test_a_path_that_can_not_be_written_is_one_line(tmp_path):
    path = tmp_path / "none" / "a.txt"
    with (
        pytest.raises(UserError, match=r"a\.txt can't be written \(No such file") as caught,
        replacing(path) as temporary,
    ):
        temporary.write_text("new")
    assert "\n" not in str(caught.value)


HOLDER = """
import sys, time
from ddpm_jax.files import exclusive
with exclusive(__import__("pathlib").Path(sys.argv[1]), report=print):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_locked_until_its_process_ends_in_any_way(tmp_path):
    folder = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    with (
        pytest.raises(UserError, match="another process is training in"),
        exclusive(folder, report=print),
    ):
        pass
    with exclusive(
        folder, report=print, needed=False
    ):  # The other processes of a run need no lock.
        pass
    holder.kill()
    holder.communicate()
    for _ in range(2):
        with exclusive(folder, report=print):
            assert folder.is_dir()


def test_a_folder_that_can_not_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"the run folder .*/file/run can't be written \(Not a dir"),
        exclusive(tmp_path / "file" / "run", report=print),
    ):
        pass


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"DDPM_JAX_CACHE": "/x", "XDG_CACHE_HOME": "/y"}, Path("/x")),
        ({"DDPM_JAX_CACHE": "~/x"}, Path.home() / "x"),
        ({"DDPM_JAX_CACHE": ""}, None),
        ({"XDG_CACHE_HOME": "/y"}, Path("/y/ddpm_jax")),
        ({"XDG_CACHE_HOME": ""}, Path.home() / ".cache/ddpm_jax"),
    ],
)
def test_the_environment_decides_where_the_cache_is(variables, expected, monkeypatch):
    for name in ("DDPM_JAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == expected
    assert "~" not in os.fspath(cache_folder() or "")

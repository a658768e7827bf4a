"""Local paths: what a text names, files replaced whole, locked folders, and the cache's folder."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.files import (
    Remote,
    as_text,
    cache_folder,
    exclusive,
    files_below,
    is_foreign,
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


def test_a_tilde_is_the_users_home_in_a_text_and_in_a_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("~/runs/a", Path("~/runs/a")):
        assert storage_path(given) == tmp_path / "runs" / "a"
    assert storage_path("a/~") == Path("a/~")
    with replacing("~/a.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a.txt").read_text() == "new"
    with pytest.raises(UserError, match="~nobody-at-all/a: its ~ names no user's home"):
        storage_path("~nobody-at-all/a")


def test_a_name_that_is_not_utf_8_is_written_out():
    assert as_text(os.fsdecode(b"caf\xe9/\xc3\xa9")) == "caf\\xe9/\xe9"


@pytest.mark.parametrize(
    ("name", "foreign"),
    [
        *((name, True) for name in (".DS_Store", "a/._b", "THUMBS.DB", "a/@eaDir/b", "b~")),
        *((name, False) for name in ("a/.zarray", "d/0a~b", "manifest.ocdbt", "lost", "eaDir")),
    ],
)
def test_files_of_others_are_told_apart(name, foreign):
    assert is_foreign(name) == foreign


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


def failing(monkeypatch, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)


@pytest.mark.parametrize("name", ["ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL", "EIO", "ESTALE"])
def test_without_locks_it_goes_on_with_a_line(name, monkeypatch, tmp_path):
    code, said = getattr(errno, name), []
    failing(monkeypatch, code)
    with exclusive(tmp_path, report=said.append):
        pass
    assert said == [
        f"{tmp_path} can't be locked ({os.strerror(code)}): "
        "make sure that no other process trains there"
    ]


@pytest.mark.parametrize("name", ["EAGAIN", "EWOULDBLOCK", "EACCES"])
def test_a_lock_that_is_held_has_several_names(name, monkeypatch, tmp_path):
    failing(monkeypatch, getattr(errno, name))
    with (
        pytest.raises(UserError, match="another process is training in"),
        exclusive(tmp_path, report=print),
    ):
        pass


ANSWERS = {
    "ENOSPC": "free some space there",
    "EDQUOT": "free some space there",
    "EROFS": "choose a folder that exists and is writable",
    "EACCES": "choose a folder that exists and is writable",
    "ENAMETOOLONG": "choose a shorter name",
    "EMFILE": "raise the limit of open files",
    "EIO": "check the disk",
}


@pytest.mark.parametrize("name", ANSWERS)
def test_each_answer_of_the_system_is_one_line_with_its_own_mend(name, monkeypatch, tmp_path):
    code = getattr(errno, name)

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", refuse)
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(UserError) as told, replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert f"can't be written ({os.strerror(code)}); {ANSWERS[name]}" in str(told.value)
    assert len(str(told.value).splitlines()) == 1
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


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


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    for name in ("DDPM_JAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert cache_folder() is None

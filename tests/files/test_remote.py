"""A path in a bucket behaves as a local one does."""

import random

import pytest

from ddpm_jax.files import Remote, files_below, remote, remove, replacing, storage_path


def names(folder):
    return sorted(item.relative_to(folder).as_posix() for item in files_below(folder))


@pytest.fixture(params=["disk", "bucket"])
def folder(request, tmp_path, bucket):
    return storage_path(str(tmp_path) if request.param == "disk" else "gs://bucket/paths/of ours")


def test_paths_answer_alike_on_a_disk_and_in_a_bucket(folder):
    a, b = folder / "a.txt", folder / "sub" / "b.npz"
    b.parent.mkdir(parents=True, exist_ok=True)
    a.write_text("ä")
    b.write_bytes(bytes(range(256)) * 100)
    assert (a.name, a.stem, a.suffix, b.parent.name) == ("a.txt", "a", ".txt", "sub")
    assert a.with_suffix(".png") == a.with_name("a.png") == folder / "a.png"
    assert str(b) == f"{folder}/sub/b.npz"
    assert [a.is_file(), a.is_dir(), a.exists()] == [True, False, True]
    assert [b.parent.is_file(), b.parent.is_dir(), b.parent.exists()] == [False, True, True]
    missing = folder / "no"
    assert [missing.is_file(), missing.is_dir(), missing.exists()] == [False, False, False]
    assert sorted(item.name for item in folder.iterdir()) == ["a.txt", "sub"]
    assert list(folder.glob("*.txt")) == [a]
    assert list((folder / "no").glob("*")) == []
    assert names(folder) == ["a.txt", "sub/b.npz"]
    assert a.read_text() == "ä"
    with b.open("rb") as file:
        assert file.read(3) == b"\0\1\2"
        assert len(file.read()) == 25_597
    with pytest.raises(FileNotFoundError, match="no"):
        missing.read_bytes()
    with pytest.raises(FileNotFoundError):
        missing.unlink()
    missing.unlink(missing_ok=True)
    remove(folder / "sub")
    assert names(folder) == ["a.txt"]
    with replacing(a) as beside:
        beside.write_text("new")
        assert a.read_text() == "ä"
    assert a.read_text() == "new"
    with pytest.raises(ZeroDivisionError), replacing(a) as beside:
        beside.write_text(str(1 / 0))
    with replacing(a):
        pass
    assert a.read_text() == "new"
    assert names(folder) == ["a.txt"]


def test_large_objects_are_read_in_parts(bucket, monkeypatch):
    monkeypatch.setattr(remote, "_READ", 1000)
    path, data = storage_path("gs://bucket/large"), random.Random(0).randbytes(4321)
    path.write_bytes(data)
    bucket.asked.clear()
    with path.open("rb") as file:
        assert b"".join(iter(lambda: file.read(700), b"")) == data
    assert 5 <= len([path for _, path in bucket.asked if "large" in path]) <= 9


def test_a_login_that_fails_is_not_quoted(bucket):
    from google.auth.exceptions import RefreshError

    said = Remote("gs://bucket/x").explain(RefreshError("invalid_grant", {"key": "secret"}))
    assert "secret" not in said
    assert "gcloud auth application-default login" in said


def test_no_more_is_removed_than_was_named(bucket):
    root = storage_path("gs://bucket/sweep")
    for name in ("a[1]", "a1", "b?", "bX", "c*", "cd"):
        (root / name / "x").write_text(name)
    for name in ("a[1]", "b?", "c*"):
        remove(root / name)
    assert names(root) == ["a1/x", "bX/x", "cd/x"]

"""Files that grow: written directly in a local folder, uploaded whole to a bucket."""

import os
import time

import pytest

from ddpm_jax.files import Spool, StoreError, storage_path


def test_a_local_folder_is_written_directly(tmp_path):
    spool = Spool(tmp_path / "run", ("a.txt",), pytest.fail)
    assert spool.folder == tmp_path / "run"
    (spool.folder / "a.txt").write_text("1")
    spool.upload()
    spool.close()
    assert (tmp_path / "run" / "a.txt").read_text() == "1"


def test_only_changed_files_are_uploaded_and_files_to_append_to_are_downloaded(bucket):
    target = storage_path("gs://bucket/spool")
    (target / "rows.txt").write_text("1\n")
    (target / "other.txt").write_text("not downloaded")
    spool = Spool(target, ("rows.txt", "new.txt"), pytest.fail)
    assert [path.name for path in spool.folder.iterdir()] == ["rows.txt"]
    bucket.put.clear()
    spool.upload()
    assert bucket.put == []
    with (spool.folder / "rows.txt").open("a") as file:
        file.write("2\n")
    (spool.folder / "sub").mkdir()
    (spool.folder / "sub" / "new.txt").write_text("new")
    (spool.folder / ".half.txt").write_text("still being written")
    spool.upload()
    spool.upload()
    assert bucket.put == ["spool/rows.txt", "spool/sub/new.txt"]
    assert (target / "rows.txt").read_text() == "1\n2\n"
    (spool.folder / "sub" / "new.txt").write_text("newer")
    spool.close()
    assert (target / "sub/new.txt").read_text() == "newer"
    assert not spool.folder.exists()


def test_a_failed_upload_is_reported_once_and_tried_again(bucket):
    lines: list[str] = []
    target = storage_path("gs://bucket/failing")
    spool = Spool(target, (), lines.append)
    (spool.folder / "a.txt").write_text("1")
    bucket.refuses = lambda method, path: True
    spool.upload()
    spool.upload()
    (line,) = lines
    assert line.startswith("gs://bucket/failing can't be written: gs://bucket refuses this account")
    bucket.refuses = lambda method, path: False
    spool.close()
    assert (target / "a.txt").read_text() == "1"


def test_a_bucket_that_can_not_be_read_is_an_error_at_once():
    with pytest.raises(StoreError, match="gs://nowhere does not exist"):
        Spool(storage_path("gs://nowhere/run"), ("a.txt",), pytest.fail)


def test_files_that_nobody_changes_are_kept_from_being_cleaned_away(bucket):
    spool = Spool(storage_path("gs://bucket/kept"), (), pytest.fail)
    path = spool.folder / "events.jsonl"
    path.write_text("{}\n")
    spool.upload()
    os.utime(path, (1e9, 1e9))
    spool.upload()
    bucket.put.clear()
    spool.upload()
    assert bucket.put == []
    assert time.time() - path.stat().st_atime < 100
    assert path.stat().st_mtime == 1e9
    spool.close()

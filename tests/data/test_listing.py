import logging
import os
import struct
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from ddpm_jax.data import formats
from ddpm_jax.data import listing as listing_module
from ddpm_jax.data.listing import list_pictures
from ddpm_jax.errors import UserError


@pytest.fixture
def png(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("one") / "one.png"
    Image.new("L", (2, 2), 7).save(path)
    return path.read_bytes()


def zipped(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def patched(path: Path, signature: bytes, offset: int, value: bytes) -> None:
    """Overwrites a field of every header of one kind in a zip."""
    data = bytearray(path.read_bytes())
    at = data.find(signature)
    while at >= 0:
        data[at + offset : at + offset + len(value)] = value
        at = data.find(signature, at + 4)
    path.write_bytes(data)


CENTRAL, LOCAL = b"PK\x01\x02", b"PK\x03\x04"
NAMES = ["cat/1.PNG", "cat/deep/2.png", "dog/3.png", "é ü/4.png"]


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_zip_lists_and_reads_as_the_folder_it_was_made_of(tmp_path, png, method):
    entries = {name: png + name.encode() for name in reversed(NAMES)}
    hidden = (".x/1.png", "cat/.1.png", "__MACOSX/cat/._1.png", "notes.txt", "empty/")
    for name, data in (entries | dict.fromkeys(hidden, b"")).items():
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(data)
    file = zipped(tmp_path / "set.zip", entries | dict.fromkeys(hidden, b""), method)
    for root in (tmp_path / "set", file):
        found = list_pictures(root)
        assert found.names == NAMES
        assert [found.read(name) for name in found.names] == [entries[name] for name in NAMES]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "set.zip"]


def test_a_change_of_any_file_changes_the_state(tmp_path, png):
    folder = tmp_path / "set"
    folder.mkdir()
    states = set()

    def change(make) -> None:
        make()
        states.add(list_pictures(folder).state)

    change(lambda: (folder / "a.png").write_bytes(png))
    change(lambda: (folder / "b.png").write_bytes(png))
    change(lambda: (folder / "b.png").write_bytes(png + b"1"))
    change(lambda: os.utime(folder / "b.png", ns=(1, 1)))
    change(lambda: (folder / "b.png").rename(folder / "c.png"))
    assert len(states) == 5
    change(lambda: (folder / "notes.txt").write_text("no picture"))
    assert len(states) == 5


def test_names_that_lead_out_are_left_out_and_counted(tmp_path, png):
    bad = ("../../up.png", "/etc/root.png", "C:/drive.png", "a/../../b.png", "..\\..\\back.png")
    file = zipped(tmp_path / "x.zip", dict.fromkeys((*bad, "good.png"), png))
    found = list_pictures(file)
    assert found.names == ["good.png"]
    assert found.left_out == {"whose names lead out of the zip": 5}
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


def test_archives_inside_are_left_out_and_counted(tmp_path, png):
    inner = zipped(tmp_path / "inner.zip", {"1.png": png}).read_bytes()
    entries = {"1.png": png, "inner.zip": inner, "more.tar.gz": b""}
    found = list_pictures(zipped(tmp_path / "x.zip", entries))
    assert found.names == ["1.png"]
    assert found.left_out == {".zip (an archive; unpack it)": 1, ".gz (an archive; unpack it)": 1}
    with pytest.raises(UserError, match=r"no pictures.*1 \.zip \(an archive; unpack it\)"):
        list_pictures(zipped(tmp_path / "y.zip", {"inner.zip": inner}))


OTHERS = {
    "@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg": "in @eaDir",
    "cat/@eaDir/1.png": "in @eaDir",
    "#recycle/old.png": "in #recycle",
    ".@__thumb/default1.png": "in .@__thumb",
    "$RECYCLE.BIN/$R1.png": "in $RECYCLE.BIN",
    "System Volume Information/x.png": "in System Volume Information",
    ".thumbnails/normal/1.png": "in .thumbnails",
    "__MACOSX/cat/._1.png": "in __MACOSX",
    "cat/Thumbs.db": "of the system",
    "desktop.ini": "of the system",
    "Icon\r": "of the system",
    "._1.png": "hidden",
    ".DS_Store": "hidden",
    ".git/logo.png": "hidden",
    "old.zip": ".zip (an archive; unpack it)",
    "phone.HEIC": ".heic (needs pip install pillow-heif)",
    "notes.txt": ".txt",
    "paper.pdf": ".pdf",
    "README": "without an ending",
    "data.h5": ".h5",
    "drawing.eps": ".eps",
}


@pytest.mark.parametrize("packed", [False, True])
def test_what_systems_and_people_keep_beside_pictures_is_counted_by_its_reason(
    tmp_path, png, packed, monkeypatch
):
    monkeypatch.setattr(formats, "_register_heif", lambda: None)
    entries: dict[str, bytes] = {}
    for name in ("1.png", "cat/@thing/2.png", "downloaded", *OTHERS):
        entries[name] = png
    entries["README"] = b"about these pictures"
    if packed:
        root = zipped(tmp_path / "set.zip", entries)
    else:
        root = tmp_path / "set"
        for name, data in entries.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
    found = list_pictures(root)
    # The content says that the one without an ending is a picture.
    assert found.names == ["1.png", "cat/@thing/2.png", "downloaded"]
    assert found.left_out == dict(Counter(OTHERS.values()))


def test_a_link_from_a_hidden_folder_hides_no_pictures(tmp_path, png):
    for name in (".cache/links/x", "cat/1.png", ".store/dog/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png)
    (tmp_path / ".cache" / "links" / "cat").symlink_to(tmp_path / "cat")
    (tmp_path / "dog").symlink_to(tmp_path / ".store" / "dog")
    (tmp_path / "same").symlink_to(tmp_path / "cat")
    found = list_pictures(tmp_path)
    assert found.names == ["cat/1.png", "dog/2.png"]
    assert found.left_out == {"hidden": 2, "in folders that are linked twice": 1}


def test_of_two_entries_of_one_name_the_later_counts(tmp_path, png):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("1.png", b"older")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("1.png", png)
    found = list_pictures(tmp_path / "x.zip")
    assert found.read("1.png") == png
    assert found.left_out == {"of a name that comes again": 1}


def test_an_encrypted_entry_says_so(tmp_path, png):
    file = zipped(tmp_path / "x.zip", {"1.png": png})
    patched(file, LOCAL, 6, b"\x01\x00")
    patched(file, CENTRAL, 8, b"\x01\x00")
    found = list_pictures(file)
    with pytest.raises(ValueError, match="encrypted; make a zip without a password"):
        found.read("1.png")


def test_a_bomb_is_not_unpacked(tmp_path, png, monkeypatch):
    monkeypatch.setattr(listing_module, "_ANY_RATIO_BYTES", 2**16)
    file = zipped(tmp_path / "x.zip", {"bomb.bmp": bytes(2**20), "1.png": png})
    found = list_pictures(file)
    with pytest.raises(ValueError, match=r"unpacks to 1,048,576 bytes, .* times as many"):
        found.read("bomb.bmp")
    assert found.read("1.png") == png
    monkeypatch.setattr(listing_module, "LARGEST_FILE", 2**10)
    with pytest.raises(UserError, match="is a zip bomb"):
        list_pictures(file)


def test_overlapping_entries_are_a_bomb(tmp_path):
    """Entries that share the same bytes: each has a small ratio, but the sum is huge."""
    file = zipped(tmp_path / "x.zip", {f"{i}.png": bytes(100) for i in range(50)}, 0)
    patched(file, CENTRAL, 20, struct.pack("<I", 5000))
    with pytest.raises(UserError, match=r"is a zip bomb .*overlap") as caught:
        list_pictures(file)
    assert "\n" not in str(caught.value)


def test_no_more_bytes_than_stated_are_unpacked(tmp_path):
    file = zipped(tmp_path / "x.zip", {"1.png": bytes(2**20)})
    patched(file, CENTRAL, 24, struct.pack("<I", 10))
    with pytest.raises(zipfile.BadZipFile, match="CRC"):
        list_pictures(file).read("1.png")


def test_no_file_is_read_without_end(tmp_path, png, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "1.png").write_bytes(png)
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone")
    found = list_pictures(tmp_path)
    # The pipe and the device are not listed; the broken link is, so that reading names it.
    assert found.names == ["1.png", "nowhere.png"]
    assert found.left_out == {"pipe or device": 2}
    with pytest.raises(FileNotFoundError):
        found.read("nowhere.png")
    monkeypatch.setattr(listing_module, "LARGEST_FILE", 20)
    with pytest.raises(ValueError, match="larger than 20 bytes"):
        found.read("1.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_can_not_be_listed_is_named(tmp_path, png, caplog):
    (tmp_path / "1.png").write_bytes(png)
    (tmp_path / "shut").mkdir(mode=0)
    with caplog.at_level(logging.WARNING):
        assert list_pictures(tmp_path).names == ["1.png"]
    assert "shut can't be listed" in caplog.text


def test_a_zip_with_a_damaged_list_is_refused(tmp_path, png):
    path = zipped(tmp_path / "set.zip", {"1.png": png})
    path.write_bytes(path.read_bytes().replace(b"PK\x01\x02", b"PK\x01\x03"))
    with pytest.raises(UserError, match=r"set\.zip can't be read as a zip \(Bad magic number"):
        list_pictures(tmp_path / "set.zip")

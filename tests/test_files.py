"""Files are replaced whole or not at all."""

import json
import os
import stat

import pytest

from ddcli.files import MANIFEST, sha256, whole_file, whole_folder, without_place, write_text


class MishapError(Exception):
    """Whatever may go wrong while writing."""


def fail_after(write, content):
    write(content)
    raise MishapError


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_what_is_written_is_on_the_disk_before_it_takes_its_name(whole, tmp_path, monkeypatch):
    """And its name before anybody counts on it: a power cut leaves the old one or the new one."""
    done = []

    def synced(handle):
        done.append(os.fstat(handle).st_ino)

    def replaced(old, new, replace=os.replace):
        done.append("named")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    with whole(tmp_path / "new") as beside:
        written = beside if whole is whole_file else beside / "weights"
        written.write_text("weights")
        content = written.stat().st_ino
    assert done.count("named") == 1
    named = done.index("named")
    assert content in done[:named]
    assert done[named + 1 :] == [tmp_path.stat().st_ino]


# -- files ------------------------------------------------------------------------------------------------


def test_a_file_written_whole_holds_what_was_written(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"  # until the block is left
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("old", [None, b"old"])
def test_an_accident_leaves_the_old_file_and_nothing_else(tmp_path, old):
    path = tmp_path / "a.txt"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(MishapError), whole_file(path) as beside:
        fail_after(beside.write_text, "half of the n")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({"a.txt": old} if old else {})


def test_an_interrupt_leaves_nothing_behind_either(tmp_path):
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "a.txt"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("books/novel.txt", "books/novel.txt"),
        ("/home/me/novel.txt", "novel.txt"),
        ("../../me/novel.txt", "novel.txt"),
        ("~/novel.txt", "novel.txt"),
        ("generator:/home/me/noise.npy", "generator:noise.npy"),
        ("bpe:2048", "bpe:2048"),
        ("https://example.org/novel.txt", "https://example.org/novel.txt"),
        ("roneneldan/TinyStories", "roneneldan/TinyStories"),
    ],
)
def test_strangers_see_no_path_of_this_machine(source, shown):
    assert without_place(source) == shown


@pytest.mark.parametrize("bits", [0o600, 0o644, 0o755, 0o666])
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path, umask, bits):
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(bits)
    write_text(path, "new")
    assert mode(path) == bits


def test_a_new_file_has_the_permissions_any_new_file_has(tmp_path, umask):
    write_text(tmp_path / "ours", "new")
    (tmp_path / "plain").write_text("new")
    assert mode(tmp_path / "ours") == mode(tmp_path / "plain") == 0o640


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path):
    target, link = tmp_path / "far" / "target.txt", tmp_path / "link.txt"
    target.parent.mkdir()
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path):
    """A pipe, or /dev/null, which root would otherwise turn into a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text(pipe, "new")
        assert os.read(reader, 100) == b"new"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


def test_text_is_written_without_changing_its_line_ends(tmp_path):
    write_text(tmp_path / "a.txt", "a\r\nb\nc\u2028\ufeff")
    assert (tmp_path / "a.txt").read_bytes() == "a\r\nb\nc\u2028\ufeff".encode()


# -- folders ----------------------------------------------------------------------------------------------


def test_a_folder_written_whole_is_sealed_by_a_manifest_that_verifies(tmp_path, umask):
    with whole_folder(tmp_path / "f") as beside:
        (beside / "a").write_text("1")
        (beside / "a").chmod(0o600)  # as safetensors are written
        (beside / "b").write_bytes(b"\0" * 1000)
        assert not (tmp_path / "f").exists()
    sums = json.loads((tmp_path / "f" / MANIFEST).read_text())
    assert sums == {name: sha256(tmp_path / "f" / name) for name in ("a", "b")}
    assert {mode(file) for file in (tmp_path / "f").iterdir()} == {0o640}
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("exists", [False, True])
def test_an_accident_leaves_the_old_folder_and_nothing_else(tmp_path, exists):
    folder = tmp_path / "f"
    if exists:
        with whole_folder(folder) as beside:
            (beside / "a").write_text("old")
    with pytest.raises(MishapError), whole_folder(folder) as beside:
        fail_after((beside / "a").write_text, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["f"] * exists
    assert not exists or (folder / "a").read_text() == "old"


def test_a_folder_replaces_another_with_all_it_held(tmp_path):
    for name in ("old", "new"):
        with whole_folder(tmp_path / "f") as beside:
            (beside / name).write_text(name)
    assert sorted(p.name for p in (tmp_path / "f").iterdir()) == [MANIFEST, "new"]


def test_a_new_folder_has_the_permissions_any_new_folder_has(tmp_path, umask):
    with whole_folder(tmp_path / "ours"):
        pass
    (tmp_path / "plain").mkdir()
    assert mode(tmp_path / "ours") == mode(tmp_path / "plain") == 0o750


def test_sha256_is_the_known_one(tmp_path):
    (tmp_path / "abc").write_text("abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "abc") == known

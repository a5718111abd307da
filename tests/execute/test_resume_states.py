"""Whatever a crash, or anyone else, has left in OUT.partial: nothing foreign is touched, nothing earlier is lost."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from stopped import contents, merge, opened, reading, stop, write_models

import stockpot as sp
from files import files_below
from stockpot.execute.journal import Finished, Journal, read_journal
from stockpot.execute.workplace import Workplace, kept, published


@pytest.fixture
def place(tmp_path):
    return write_models(tmp_path)


@pytest.fixture
def journal(place):
    """The journal of a merge that was stopped after 3 tensors."""
    merge(place)
    (place / "out").rename(place / "whole")
    stop(lambda: merge(place), 3)
    return place / "out.partial" / "journal"


def line(entry):
    text = entry if isinstance(entry, str) else json.dumps(entry)
    return f"{xxhash.xxh3_64_hexdigest(text.encode())} {text}\n".encode()


def resumed_rightly(place, count, **options):
    assert merge(place, **options).resumed == count
    assert contents(place / "out") == contents(place / "whole")
    assert not (place / "out.partial").exists()


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_a_torn_last_line(cut, place, journal):
    """A line that was half written counts for nothing, and the lines after it are whole again."""
    os.truncate(journal, journal.stat().st_size - cut)
    stop(lambda: merge(place), 1)
    assert len(read_journal(journal).finished) == 3
    resumed_rightly(place, 3)


@pytest.mark.parametrize("garbage", [b"\0" * 300, b"\n", b"\xff\xfe{}\n", b"0 {}\n", line([]), line("{"), line("7")])
def test_garbage_in_the_middle(garbage, place, journal):
    """Lines before it count; what comes after cannot be told apart from garbage, and is made again."""
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:2], garbage, *lines[2:]]))
    resumed_rightly(place, 1)


@pytest.mark.parametrize("content", [b"", b"\n", b"\0" * 4096, b"half a li"])
def test_a_journal_that_the_power_took(content, place, journal):
    """Without its first line a journal tells nothing: the merge begins again by itself."""
    journal.write_bytes(content)
    assert kept(place / "out")[0] == 0
    resumed_rightly(place, 0)


def test_a_folder_that_the_power_took(place, journal):
    """Also where README.txt is as empty as the journal, the folder is known for what it is."""
    journal.write_bytes(b"")
    (journal.parent / "README.txt").write_bytes(b"")
    resumed_rightly(place, 0)


@pytest.mark.parametrize("first", [{"journal": 2, "merge": {}}, {"journal": 99}])
def test_a_journal_of_another_format_is_not_thrown_away(first, place, journal):
    """What a later version has begun is refused by name; --restart begins again."""
    journal.write_bytes(line(first) + line({"new": 1}))
    before = contents(journal.parent)
    with pytest.raises(sp.PlanError, match=r"(?s)format.*--restart"):
        merge(place)
    assert contents(journal.parent) == before
    resumed_rightly(place, 0, restart=True)


HOSTILE = [
    "[" * 100_000, "{", "null", "7", '""', "[]", "1e999", "NaN",
    {"tensor": 1, "file": "f", "hash": "h", "read": {}}, {"tensor": "t"}, {"tensor": {}, "read": {}},
    {"tensor": "t", "file": [], "hash": "h", "read": {}}, {"tensor": "t", "file": "f", "hash": 1, "read": {}},
    {"tensor": "t", "file": "f", "hash": "h", "read": []}, {"tensor": "t", "file": "f", "hash": "h", "read": {"a": 1}},
    {"tensor": "t", "file": "f", "hash": "h", "read": {"a": {"b": 1}}}, {"lost": []}, {"lost": None},
    {"publishing": "x"}, {"publishing": None}, {"publishing": [1]}, {"unknown": 1}, {},
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(HOSTILE)))
@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_hostile_line_is_garbage(number, at, place, journal):
    """Lines with the right hash and the wrong content, anywhere, are no crash: they end what is believed."""
    lines = journal.read_bytes().splitlines(keepends=True)
    lines.insert(at, line(HOSTILE[number]))
    journal.write_bytes(b"".join(lines))
    assert kept(place / "out")[0] == max(0, at - 1)
    assert not published(place / "out")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(
                    ["journal", "merge", "tensor", "file", "hash", "read", "publishing", "lost", "versions"]
                ),
                x,
            )
        ),
        max_leaves=8,
    ),
    st.booleans(),
)
def test_any_json_is_read_without_a_crash(tmp_path_factory, entry, headed):
    """Whatever JSON stands in a journal, reading it gives an answer of the right types."""
    path = tmp_path_factory.getbasetemp() / "hostile"
    path.write_bytes((line({"journal": 1, "merge": {"x": 1}}) if headed else b"") + line(entry))
    past = read_journal(path)
    assert isinstance(past.head, dict)
    assert past.published is None or isinstance(past.published, int)
    assert all(isinstance(done, Finished) for done in past.finished.values())


@pytest.mark.parametrize("head", [{"versions": 7}, {"inputs": []}, {"recipe": {"documents": 7}}, {"files": "x"}])
def test_a_head_of_wrong_types_is_a_change(head, place, journal):
    """A first line that holds other types than expected is another merge, no crash."""
    lines = journal.read_bytes().splitlines(keepends=True)
    merged = json.loads(lines[0].split(b" ", 1)[1])["merge"]
    journal.write_bytes(b"".join([line({"journal": 1, "merge": {**merged, **head}}), *lines[1:]]))
    with pytest.raises(sp.PlanError, match="--restart"):
        merge(place)


def test_a_journal_that_cannot_be_read(place, journal):
    """It is named, with both ways on, and --restart is indeed one."""
    journal.unlink()
    journal.mkdir()
    with pytest.raises(sp.StorageError, match=r"(?s)journal.*--restart"):
        merge(place)
    resumed_rightly(place, 0, restart=True)


STRANGERS = {
    "another file": {"thesis.tex": "mine"},
    "a folder named model": {"model/weights.bin": "mine"},
    "a readme": {"README.txt": "mine"},
    "a readme and a model": {"README.txt": "mine", "model/weights.bin": "mine"},
    "a journal": {"journal": "dear diary\n"},
    "a journal and a model": {"journal": "dear diary\n", "model/weights.bin": "mine"},
    "something previous": {"previous/weights.bin": "mine"},
}


@pytest.mark.parametrize("kind", STRANGERS)
@pytest.mark.parametrize("options", [{}, {"restart": True}, {"overwrite": True}])
def test_a_folder_of_someone_else_is_left_alone(kind, options, place):
    """A folder OUT.partial that no merge has made is not used, whatever the names in it."""
    for name, text in STRANGERS[kind].items():
        path = place / "out.partial" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    before = contents(place / "out.partial")
    with pytest.raises(sp.PlanError, match="something else"):
        merge(place, **options)
    assert contents(place / "out.partial") == before
    assert not (place / "out").exists()


def test_a_file_in_the_way(place):
    """OUT.partial is a file: one error that names it."""
    (place / "out.partial").write_text("mine")
    with pytest.raises(sp.PlanError, match=r"out\.partial"):
        merge(place)
    assert (place / "out.partial").read_text() == "mine"


class Crash(BaseException):
    """Stands for a kill: what comes after it does not happen."""


def crash(*_args, **_options):
    raise Crash


def crashed(place, patch, *names, **options):
    """A merge that dies when the first of these methods of Workplace is called; the others do nothing more either."""
    with pytest.MonkeyPatch.context() as local_patch:
        for name in names:
            local_patch.setattr(Workplace, name, crash)
        patch(local_patch)
        with pytest.raises(Crash):
            merge(place, **options)


def before_second_rename(patch):
    real = Path.rename

    def rename(self, target):
        if self.name == "model":
            raise Crash
        return real(self, target)

    patch.setattr(Path, "rename", rename)


@pytest.fixture
def old(place):
    """An earlier output, and the result of merging over it."""
    merge(place)
    (place / "out").rename(place / "whole")
    (place / "out").mkdir()
    (place / "out" / "old.txt").write_text("old")
    return place


def test_killed_between_the_renames(old):
    """OUT is gone for a moment: the next merge puts it back before anything else, and may then replace it."""
    crashed(old, before_second_rename, overwrite=True)
    assert files_below(old / "out.partial" / "previous") == ["old.txt"]
    assert not (old / "out").exists()
    with reading() as read:
        assert merge(old, overwrite=True).resumed == 6
    assert read == set()
    assert contents(old / "out") == contents(old / "whole")
    assert not (old / "out.partial").exists()


@pytest.mark.parametrize("options", [{}, {"restart": True}])
def test_killed_between_the_renames_and_not_to_be_replaced(old, options):
    """Without --overwrite the earlier output is back in its place, and stays."""
    crashed(old, before_second_rename, overwrite=True)
    with pytest.raises(sp.PlanError, match="the output exists"):
        merge(old, **options)
    assert contents(old / "out") == {"old.txt": b"old"}


@pytest.mark.parametrize("earlier", [True, False])
def test_killed_when_it_was_published(place, old, earlier):
    """OUT is in its place and nothing is tidied up: the same command succeeds at once, and tidies up."""
    if not earlier:
        (place / "out" / "old.txt").unlink()
        (place / "out").rmdir()
    crashed(place, lambda _: None, "tidy", overwrite=earlier)
    assert published(place / "out")
    assert (place / "out.partial" / "previous").exists() == earlier
    with reading() as read:
        result = merge(place)
    assert (result.resumed, read) == (6, set())
    assert contents(place / "out") == contents(place / "whole")
    assert not (place / "out.partial").exists()


@pytest.mark.parametrize("overwrite", [True, False])
def test_published_and_then_another_recipe(place, overwrite):
    """A finished output that was not tidied up is an output like any other: replaced only when that is asked for."""
    crashed(place, lambda _: None, "tidy")
    before = contents(place / "out")
    if overwrite:
        merge(place, seed=4, overwrite=True)
        assert contents(place / "out") != before
    else:
        with pytest.raises(sp.PlanError, match="the output exists"):
            merge(place, seed=4)
        assert contents(place / "out") == before
    assert not (place / "out.partial" / "model").exists()


def test_a_rename_that_fails_puts_the_old_output_back(old, monkeypatch):
    """When the new output cannot take its place, the earlier one is there again at once; the work is kept."""
    real = Path.rename

    def rename(self, target):
        if self.name == "model":
            raise OSError(5, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(sp.StorageError, match=r"(?s)out.*6 of 6 tensors are kept"):
        merge(old, overwrite=True)
    assert contents(old / "out") == {"old.txt": b"old"}
    monkeypatch.undo()
    assert merge(old, overwrite=True).resumed == 6
    assert contents(old / "out") == contents(old / "whole")


def test_an_earlier_output_whose_place_is_taken_is_not_deleted(old):
    """Someone made another OUT while the earlier one lay aside: both stay, and the error names them."""
    crashed(old, before_second_rename, overwrite=True)
    (old / "out").mkdir()
    (old / "out" / "new.txt").write_text("new")
    for options in ({"overwrite": True}, {"overwrite": True, "restart": True}):
        with pytest.raises(sp.PlanError, match=r"(?s)earlier output.*previous"):
            merge(old, **options)
    assert contents(old / "out") == {"new.txt": b"new"}
    assert contents(old / "out.partial" / "previous") == {"old.txt": b"old"}


def test_an_error_never_deletes_an_earlier_output(old):
    """A merge that fails for good while an earlier output lies aside puts that back."""
    crashed(old, before_second_rename, overwrite=True)
    work = Workplace(old / "out")
    work.tidy()
    assert contents(old / "out") == {"old.txt": b"old"}


def test_an_output_that_is_a_link(old):
    """A link OUT is replaced by the folder; where it points to stays as it is, also over a crash."""
    (old / "out").rename(old / "elsewhere")
    (old / "out").symlink_to(old / "elsewhere")
    crashed(old, lambda _: None, "tidy", overwrite=True)
    merge(old, overwrite=True)
    assert not (old / "out").is_symlink()
    assert contents(old / "out") == contents(old / "whole")
    assert contents(old / "elsewhere") == {"old.txt": b"old"}
    assert not (old / "out.partial").exists()


def test_kept_of_nothing(place):
    """Where no merge was broken off, nothing is kept."""
    assert kept(place / "out") == (0, place / "out.partial")
    base, a, _ = opened(place)
    sp.save(0.5 * base + 0.5 * a, place / "out")
    assert kept(place / "out") == (0, place / "out.partial")


def test_what_a_journal_says_comes_back(tmp_path):
    """Finished tensors, lost files and the published folder are read as they were written; names may be anything."""
    path = tmp_path / "journal"
    entries = {n: Finished(f"{len(n)}", n, {("/a\nb", 'x"\u2028'): "h"}) for n in ("a", "b\n", "ccc", "\x85", "")}
    journal = Journal(path, {"x": [1, None, "é"]})
    for name, entry in entries.items():
        journal.finished(name, entry)
    journal.lost("3")
    journal.publishing(7, durable=True)
    assert journal.count == 4
    journal.close()
    past = read_journal(path)
    assert past.head == {"x": [1, None, "é"]}
    assert past.finished == {n: e for n, e in entries.items() if n != "ccc"}
    assert (past.published, past.nbytes) == (7, path.stat().st_size)

"""Folders of strangers: small files that are no files, links, names; and limits that the document tells."""

from __future__ import annotations

import os
from pathlib import Path

import attacks as b
import pytest

from stockpot.checkpoint import header, jsons, legacy, pickles, sidecars, torchnames
from stockpot.checkpoint.open import open_checkpoint
from stockpot.checkpoint.sidecars import plan_sidecars
from stockpot.errors import CheckpointError
from stockpot.recipe import method_files, yaml_nodes

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, pipes and names of bytes")


@pytest.fixture
def model(tmp_path):
    """A good model with a tokenizer."""
    return b.model(tmp_path / "m", config__json=b"{}", tokenizer__json=b"{}")


def names(folder):
    """What would be copied from it."""
    return [name for name, _ in plan_sidecars(open_checkpoint(str(folder)))]


def test_pipes_and_endless_links_are_not_copied(model):
    """A pipe would block, a link to itself has no end: both are left out, also as a list of modules."""
    os.mkfifo(model / "vocab.txt")
    os.mkfifo(model / "modules.json")
    (model / "merges.txt").symlink_to("merges.txt")
    (model / "nowhere.txt").symlink_to("missing")
    assert names(model) == ["tokenizer.json"]


@pytest.mark.parametrize("name", ["vocab.txt", "modules.json", "chat_template.jinja"])
@pytest.mark.parametrize("target", ["/etc/passwd", "../secret.json"])
def test_links_out_are_refused(model, name, target):
    """A link to a file elsewhere is not read, and not copied into a folder that may be published."""
    (model.parent / "secret.json").write_text("[]")
    (model / name).symlink_to(target)
    with pytest.raises(CheckpointError, match="leads out of its folder"):
        names(model)


def test_devices_are_not_copied(model):
    """Neither is a link to one followed."""
    (model / "vocab.txt").symlink_to("/dev/zero")
    assert names(model) == ["tokenizer.json"]


def test_names_that_are_no_text_are_refused(model):
    """A receipt could not write them."""
    (model / os.fsdecode(b"\xff.txt")).write_bytes(b"")
    with pytest.raises(CheckpointError, match="not valid Unicode"):
        names(model)


def test_a_folder_full_of_files_is_refused(model, monkeypatch):
    """So many files are no model's settings."""
    monkeypatch.setattr(sidecars, "_MAX_FILES", 20)
    for number in range(21):
        (model / f"{number}.txt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="more than 20 small files"):
        names(model)


@pytest.mark.parametrize("path", ["../..", "/etc", "a/../..", "\\ud800", "", "."])
def test_modules_are_folders_of_the_model(model, path):
    """A list of modules that names a folder elsewhere adds nothing."""
    (model / "modules.json").write_text(f'[{{"path": "{path}"}}]')
    assert names(model) == ["modules.json", "tokenizer.json"]


def test_a_link_that_the_user_names_is_followed(model, tmp_path):
    """A path that somebody wrote is theirs to choose, be it a link to a folder or to a file."""
    (tmp_path / "folder").symlink_to(model)
    (tmp_path / "file.safetensors").symlink_to(model / "model.safetensors")
    assert set(open_checkpoint(str(tmp_path / "folder")).tensors) == {"a", "b"}
    assert set(open_checkpoint(str(tmp_path / "file.safetensors")).tensors) == {"a", "b"}


LIMITS = (
    header.MAX_HEADER_BYTES,
    header.MAX_TENSORS,
    header.MAX_DIMENSIONS,
    header.MAX_NAME,
    jsons._MAX_WIDE_BYTES,
    jsons.HEADER.most_marks,
    jsons.INDEX.most_bytes,
    jsons._MAX_INDEX_TENSORS,
    jsons._MAX_INDEX_FILES,
    jsons.CONFIG.most_bytes,
    jsons.CONFIG.most_marks,
    jsons.CONFIG.depth,
    jsons.HEADER.most_digits,
    jsons.CONFIG.most_digits,
    sidecars.MAX_SIDECAR_BYTES,
    sidecars._MAX_FILES,
    legacy.MAX_PICKLE_BYTES >> 20,
    legacy._MAX_MEMBERS,
    legacy._MAX_DIRECTORY_BYTES >> 20,
    pickles.MAX_INSTRUCTIONS,
    pickles._MAX_BITS,
    torchnames._MAX_KEY.bit_length() - 1,
    yaml_nodes.MAX_CHARACTERS,
    yaml_nodes.MAX_DEPTH,
    yaml_nodes.MAX_NODES,
    method_files._MAX_BYTES,
)


def test_the_document_tells_the_limits():
    """Every number in the code stands in the table of the document."""
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    words = text.partition("## Limits")[2].partition("\n## ")[0]
    assert [
        limit for limit in LIMITS if f" {limit:,} ".replace(",", " ") not in words.replace(";", " ").replace(",", " ")
    ] == []

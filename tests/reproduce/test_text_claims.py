"""Claims on texts: readers of their data, the models that are trained, and each claim once, on very little."""

from __future__ import annotations

import gzip
import math
import os
import random
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stockpot.errors import CheckpointError
from stockpot.reproduce import CLAIMS, Setting, reproduce
from stockpot.reproduce.claims.cocktail import unevenness
from stockpot.reproduce.labs import forget
from stockpot.reproduce.texts import domains as kinds
from stockpot.reproduce.texts import encoder, prose, sentences
from stockpot.reproduce.texts.bench import BENCHES
from stockpot.reproduce.texts.encoder import Examples, Shape
from stockpot.reproduce.texts.reading import Labelled, Pair, domains, labelled, pairs, source_code
from stockpot.reproduce.texts.reading import prose as read_prose
from stockpot.reproduce.texts.words import Vocabulary
from stockpot.reproduce.texts.writing import written_texts
from stockpot.reproduce.training import Schedule

OWN = [(name, bed.name) for name, claim in CLAIMS.items() for bed in claim.beds if bed.name in BENCHES]
NAMES = [" on ".join(one) for one in OWN]
SHAPE = Shape(words=60, embedding=8, width=16)
GOODS = (*kinds.DOMAINS, *kinds.LEFT_OUT)


def written(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


# --- reading ---------------------------------------------------------------------------------------------------------


def test_lines_have_a_label_and_a_text(tmp_path):
    """Empty lines are skipped, and rows whose text is; line separators within a text do not end it."""
    path = written(tmp_path / "x.all", "1 good film .\r\n\n0 \n0 bad\u2028film\n5 what ?\n")
    assert labelled(path) == [Labelled(1, "good film ."), Labelled(0, "bad\u2028film"), Labelled(5, "what ?")]


def test_texts_may_be_latin_1(tmp_path):
    """Old files are."""
    assert labelled(written(tmp_path / "x.all", "1 café".encode("latin-1"))) == [Labelled(1, "café")]


@pytest.mark.parametrize("line", ["good film", "-1 film", "1"])
def test_a_line_of_another_kind_is_an_error(tmp_path, line):
    """It names file and line."""
    path = written(tmp_path / "x.all", f"1 fine\n{line}\n")
    with pytest.raises(CheckpointError, match=r"line 2 .*x\.all"):
        labelled(path)


def archive(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as made:
        for name, text in members.items():
            made.writestr(name, text)
    return path


def test_domains_are_read_from_an_archive(tmp_path):
    """A tab divides label and text; folders within the archive do not count."""
    path = archive(tmp_path / "x.zip", {"a/books.task.train": "1\tgood 1\n0\tbad", "a/books.task.test": "1\tfine\n"})
    assert domains(path) == {"books": {"train": [(1, "good 1"), (0, "bad")], "test": [(1, "fine")]}}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"books.task.train": "1\tgood"}, "books has no train or no test data"),
        ({"readme": "1\tgood"}, "no domains"),
        ({"books.task.train": "1 good", "books.task.test": "1\tgood"}, r"line 1 .*books\.task\.train"),
    ],
    ids=["half", "none", "spaces"],
)
def test_an_archive_of_something_else_is_an_error(tmp_path, members, message):
    """It says what is missing."""
    with pytest.raises(CheckpointError, match=message):
        domains(archive(tmp_path / "x.zip", members))


def test_a_broken_archive_is_an_error(tmp_path):
    """As such."""
    with pytest.raises(CheckpointError, match=r"not a zip archive(?s:.*)x\.zip(?s:.*)copy it anew"):
        domains(written(tmp_path / "x.zip", "no"))


def test_a_damaged_archive_is_an_error(tmp_path):
    """Whichever byte of a file in it is another: what is unpacked is checked."""
    members = {f"books.task.{part}": "1\tgood film\n0\tbad film\n" * 50 for part in ("train", "test")}
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, text in members.items():
            made.writestr(name, text)
    data = path.read_bytes()
    begin = 30 + len("books.task.train")
    for place in range(begin, begin + made.infolist()[0].compress_size):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        with pytest.raises(CheckpointError, match=r"damaged(?s:.*)x\.zip"):
            domains(path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"damaged(?s:.*)x\.zip"):
        domains(path)


def test_domains_that_are_needed_must_be_there(tmp_path):
    """Those that are not are named, with the file and the files it lacks."""
    path = archive(tmp_path / "x.zip", {"books.task.train": "1\tgood", "books.task.test": "1\tfine"})
    assert set(domains(path, ["books"])) == {"books"}
    with pytest.raises(CheckpointError, match=r"no reviews of baby, dvd(?s:.*)x\.zip(?s:.*)baby\.task\.train"):
        domains(path, ["dvd", "books", "baby"])


def test_pairs_are_the_first_two_columns(tmp_path):
    """Further rewritings do not count; rows that lack one of the two are left out."""
    path = written(tmp_path / "x.tsv", "toxic\tneutral1\tneutral2\nugh \t fine\tok\nugh\t\t\n\tfine\nalone\n")
    assert pairs(path) == [Pair("ugh", "fine")]


@pytest.mark.parametrize("text", ["", "neutral1\ttoxic\na\tb\n"], ids=["empty", "swapped"])
def test_other_columns_are_an_error(tmp_path, text):
    """Whatever they hold."""
    with pytest.raises(CheckpointError, match="columns"):
        pairs(written(tmp_path / "x.tsv", text))


def test_prose_may_be_packed(tmp_path):
    """And has ends of lines of one kind."""
    packed = written(tmp_path / "a.txt.gz", gzip.compress(b"one\r\ntwo"))
    assert read_prose(packed) == read_prose(written(tmp_path / "a.txt", "one\ntwo")) == "one\ntwo"


def test_source_code_is_the_standard_library():
    """As much as is asked for, the same each time."""
    assert len(source_code(300_000)) == 300_000
    assert source_code(300_000)[:1000] == source_code(1000)
    assert "import" in source_code(10_000)


# --- the encoder -----------------------------------------------------------------------------------------------------


def examples(count=64, length=12, seed=0):
    """Class 1 holds the word 5, class 0 does not."""
    rng = np.random.default_rng(seed)
    inputs = rng.integers(6, SHAPE.words, (count, length))
    labels = np.arange(count) % 2
    inputs[labels == 1, 3] = 5
    return Examples(inputs, labels)


@pytest.fixture(scope="module")
def start():
    return encoder.pretrained(
        examples(), {"sst2": examples(), "trec": examples()}, SHAPE, Schedule(3, 1e-3, batch=8), 0
    )


def test_suites_compute_what_was_trained(start):
    """NumPy and torch give the same features."""
    import torch

    inputs = examples().inputs.copy()
    inputs[0, 4:] = inputs[1] = 0
    theta = {name: torch.from_numpy(value) for name, value in start.items()}
    trained = encoder._features(torch, theta, inputs).numpy()
    np.testing.assert_allclose(encoder.features(start, inputs), trained, rtol=1e-5, atol=1e-6)


def test_padding_does_not_count(start):
    """However much there is."""
    inputs = examples().inputs
    wide = np.pad(inputs, ((0, 0), (0, 7)))
    np.testing.assert_allclose(encoder.trec(start, wide), encoder.trec(start, inputs), rtol=1e-5, atol=1e-6)


def test_fine_tuning_learns_and_leaves_heads_alone(start):
    """So that task vectors have no heads; what is trained does not change in place."""
    before = {name: value.copy() for name, value in start.items()}
    tuned = encoder.fine_tuned(start, {"sst2": examples()}, Schedule(150, 1e-2, dropped=0.0), 0)
    learnt, new = examples(), [(encoder.sst2(one, examples().inputs).argmax(1)) for one in (start, tuned)]
    assert (new[1] == learnt.labels).mean() > 0.95 > 0.7 > (new[0] == learnt.labels).mean()
    for name in start:
        assert np.array_equal(before[name], start[name])
        assert np.array_equal(tuned[name], start[name]) == (name.split(".")[0] in ("sst2", "trec"))


def test_training_is_repeated_exactly(start):
    """The same seed gives the same bytes, another one others."""
    again = encoder.pretrained(
        examples(), {"sst2": examples(), "trec": examples()}, SHAPE, Schedule(3, 1e-3, batch=8), 0
    )
    tuned = [encoder.fine_tuned(start, {"sst2": examples()}, Schedule(2, 1e-3), seed) for seed in (0, 0, 1)]
    for name in start:
        assert np.array_equal(start[name], again[name])
        assert np.array_equal(tuned[0][name], tuned[1][name])
    assert not np.array_equal(tuned[0]["out.weight"], tuned[2]["out.weight"])


# --- the language models ---------------------------------------------------------------------------------------------


def test_unevenness_of_weights():
    """Of the largest weight and the smallest; a very low temperature is no overflow."""
    weights = np.exp(-np.array([2.0, 2.4, 3.0]) / 0.5)
    assert unevenness([2.0, 2.4, 3.0], 0.5) == pytest.approx(weights.max() / weights.min() - 1)
    assert math.isfinite(unevenness([0.0, 1e9], 1e-3))


def test_texts_that_are_written_end():
    """After the token that ends a text there are only such; the same seed writes the same."""
    import torch

    class Network:
        def __call__(self, input_ids, past_key_values, use_cache):  # 0 and 1 alike, 2 never
            logits = torch.tensor([0.0, 0.0, -1e9]).repeat(*input_ids.shape, 1)
            return type("Output", (), {"logits": logits, "past_key_values": None})

    found = written_texts(Network(), 0, 200, 6, seed=1).numpy()
    assert found.shape == (200, 6)
    ended = np.cumsum(found == 0, axis=1) > 0
    assert (found[ended] == 0).all()
    assert 60 < (found[:, 0] == 0).sum() < 140
    assert np.array_equal(found, written_texts(Network(), 0, 200, 6, seed=1).numpy())


# --- the claims ------------------------------------------------------------------------------------------------------

SUBJECTS = [a + b for a in ("film", "toy", "song", "book", "pan") for b in ("", "s", "er", "ing", "let")]
GOOD, BAD = ["good", "fine", "great", "lovely"], ["bad", "poor", "awful", "dull"]


def sentence(rng, label):
    own = rng.choice(GOOD if label else BAD)
    return f"the {rng.choice(SUBJECTS)} is {own} and {' '.join(rng.choice(SUBJECTS) for _ in range(6))}"


def sentence_lines(rng, count, between, classes=2):
    rows = ((i % classes, sentence(rng, i % 2)) for i in range(count))
    return "".join(f"{label}{between}{text}\n" for label, text in rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Made-up files in the formats of the real ones."""
    root, rng = tmp_path_factory.mktemp("data"), random.Random(0)
    for name, files in sentences.TASKS.items():
        for file in files:
            text = sentence_lines(rng, 120, " ", encoder.HEADS[name])
            written(root / "text" / "sentence_cls" / file, text)
    members = {f"{g}.task.{part}": sentence_lines(rng, 40, "\t") for g in GOODS for part in ("train", "test")}
    archive(root / "text" / "fdu_mtl_16domains.zip", members)
    for file in prose._FILES.values():
        text = "".join(sentence(rng, i % 2).capitalize() + ".\n" for i in range(400)).encode()
        written(root / "text" / "lm" / file, gzip.compress(text) if file.endswith(".gz") else text)
    rows = "".join(f"you are ugly {sentence(rng, 0)}\t{sentence(rng, 1)}\n" for _ in range(200))
    written(root / "toxicity" / "paradetox.tsv", "toxic\tneutral1\n" + rows)
    return root


@pytest.fixture
def little(monkeypatch):
    """Beds that train hardly anything."""
    step = Schedule(4, 1e-3, batch=8)
    small = sentences.Effort(SHAPE, step, step, step, step, few=10, most=60, held=20, pieces=200)
    monkeypatch.setattr(sentences, "FULL", small)
    own = kinds.Effort(SHAPE, step, step, step, step, length=12, few=3, held=10, told=30, pieces=200)
    monkeypatch.setattr(kinds, "FULL", own)
    language = replace(prose.FULL, vocabulary=300, width=16, base=replace(step, steps=30), tuned=step)
    monkeypatch.setattr(prose, "FULL", replace(language, characters=20_000, held=8_000))
    monkeypatch.setattr("stockpot.reproduce.texts.bench._SAMPLES", 40)
    monkeypatch.setattr("stockpot.reproduce.texts.bench._LAMBDAS", (0.0, 0.5, 1.0))
    monkeypatch.setattr("stockpot.reproduce.claims.cocktail._LENGTH", 100)


@pytest.mark.parametrize(("name", "bed"), OWN, ids=NAMES)
def test_each_claim_is_measured(name, bed, data, little, tmp_path):
    """On little data the figures are there, finite, and consistent; what they are is another matter."""
    claim = CLAIMS[name]
    outcome = reproduce(claim, bed=bed, data=data, seeds=[0], folder=tmp_path)
    run = outcome.runs[0]
    assert all(math.isfinite(value) for key, value in run.items() if key != "target" or run["base"])
    if name == "soup-greedy":
        assert run["held_out"] >= 0
    if name == "task-addition":
        assert run["more"] == pytest.approx(run["kept"] - run["base"])
        assert run["worst"] <= run["kept"]
    if name == "lm-cocktail":
        assert run["weights"] >= 1
    (folder,) = tmp_path.iterdir()
    assert (folder / "suite" / "suite.yml").is_file()
    assert len(list(folder.glob("models/*/model.safetensors"))) >= 2


def test_two_measurements_are_the_same(data, little, tmp_path):
    """Of one seed, when nothing is kept of the first."""
    runs = []
    for place in ("one", "two"):
        forget()
        runs.append(reproduce(CLAIMS["wise-ft"], bed="reviews", data=data, seeds=[3], folder=tmp_path / place).runs)
    assert runs[0] == runs[1]


@pytest.mark.parametrize(("name", "bed"), OWN, ids=NAMES)
def test_missing_data_is_told(name, bed, tmp_path):
    """With the file's name and what to set."""
    with pytest.raises(CheckpointError, match="STOCKPOT_DATA"):
        reproduce(CLAIMS[name], bed=bed, data=tmp_path, seeds=[9], folder=tmp_path)


def test_no_text_learns_and_tells(data, little):
    """A text of the report is in no other part of any task, even where files repeat it."""
    tasks = sentences.sentences_of(Setting(0, data, Path(), print)).tasks.values()
    roles = [
        [{row.tobytes() for row in getattr(t, role).inputs} for t in tasks] for role in ("train", "select", "report")
    ]
    train, select, report = (set().union(*own) for own in roles)
    assert all(roles[0])
    assert [len(own) for own in roles[1]] == [len(task.select) for task in tasks]
    assert not (train & report | train & select | select & report)


def test_shifts_are_new_to_all_models(data, little):
    """Neither starts nor vocabularies see goods of the shifts, or films."""
    lab = sentences.sentences_of(Setting(0, data, Path(), print))
    assert set(lab._broad) == set(GOODS) - {*sentences.SHIFTS, "MR", "imdb"}
    assert set(lab.shifts) == set(sentences.SHIFTS)


def test_texts_that_tell_were_not_read(data, little):
    """Passages of different draws differ, and no model or tokenizer has read them."""
    lab = prose.prose_of(Setting(0, data, Path(), print))
    draws = [lab.passages(["darwin", "shakespeare"], 100, draw) for draw in range(10)]
    found = [text for own in draws for text in own]
    assert len(set(found)) == len(found) == 20
    assert all(len(text) == 100 and text not in own for text in found for own in lab._texts.values())


def test_the_real_data_is_what_readers_expect():
    """Needs STOCKPOT_DATA."""
    folder = os.environ.get("STOCKPOT_DATA")
    if not folder:
        pytest.skip("STOCKPOT_DATA names no folder of data")
    file = Setting(0, Path(folder), Path(), print).file
    sizes = {}
    for files in sentences.TASKS.values():
        for name in files:
            rows = labelled(file("text", "sentence_cls", name))
            sizes[name] = (len(rows), len({row.label for row in rows}))
    assert sizes["stsa.binary.test"] == (1821, 2)
    assert sizes["TREC.test.all"] == (500, 6)
    assert sizes["subj.all"] == (10_000, 2)
    own = domains(file("text", "fdu_mtl_16domains.zip"))
    assert set(own) == set(GOODS)
    assert set(sentences.SHIFTS) < set(own)
    assert {len(own[name]["test"]) for name in sentences.SHIFTS} == {400}
    assert len(pairs(file("toxicity", "paradetox.tsv"))) > 11_000
    assert Vocabulary([row.text for row in own["books"]["train"]], 6000).size == 6000

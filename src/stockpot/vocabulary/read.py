"""Reading the vocabulary of a model's folder, whichever files it is kept in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import xxhash

from stockpot.checkpoint.jsons import CONFIG, TOKENIZER, read_json
from stockpot.checkpoint.places import cannot_read, member, must_be_file, stands
from stockpot.errors import CheckpointError, Problem, StockpotError, UnsupportedError
from stockpot.vocabulary.documents import BadVocabularyError, added_token, checked_ids, parsed
from stockpot.vocabulary.model import ROLES, AddedToken, Alphabet, Kind, Vocabulary
from stockpot.vocabulary.sentencepiece import MAX_BYTES, BadModelError, parse_pieces

__all__ = [
    "TOKENIZER_FILES",
    "bytes_of",
    "document_files",
    "has_vocabulary",
    "hash_of",
    "read_vocabulary",
    "tokenizer_files",
]

_DOCUMENT, _SETTINGS, _ROLES = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
_PIECES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model")
_TEMPLATE = "chat_template.jinja"

TOKENIZER_FILES = (
    _DOCUMENT, _SETTINGS, _ROLES, "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", *_PIECES, _TEMPLATE,
    "chat_template.json",
)  # fmt: skip
"""The files of a tokenizer, by name."""

_UNREAD = ("tekken.json", "qwen.tiktoken", "tiktoken.model")
_MAX_LINES = 5_000_000
_MAX_TEXT = 100_000_000

_SHIFTED = frozenset({
    "XLMRobertaTokenizer", "CamembertTokenizer", "BarthezTokenizer", "MBartTokenizer", "MBart50Tokenizer",
    "NllbTokenizer", "PegasusTokenizer", "XGLMTokenizer", "PLBartTokenizer", "XLMProphetNetTokenizer",
    "M2M100Tokenizer",
})  # fmt: skip
"""Classes that number tokens otherwise than the SentencePiece model in their folder does."""

_RESAVE = "write tokenizer.json: AutoTokenizer.from_pretrained(MODEL).save_pretrained(MODEL)"


def has_vocabulary(folder: Path | None) -> bool:
    """Whether there is a file to read one from."""
    names = (_DOCUMENT, "vocab.json", "vocab.txt", *_PIECES)
    return folder is not None and any(stands(folder / name) for name in names)


def tokenizer_files(folder: Path | None) -> tuple[str, ...]:
    """Names of the files of the tokenizer in ``folder``."""
    return tuple(name for name in TOKENIZER_FILES if folder is not None and stands(folder / name))


def document_files(folder: Path | None) -> tuple[str, ...]:
    """Names of those files that say which tokens there are: of tokenizer.json alone, where it is there."""
    names = (_DOCUMENT, "vocab.json", "vocab.txt", *_PIECES)
    found = [name for name in names if folder is not None and stands(folder / name)]
    more = [name for name in ("added_tokens.json",) if folder is not None and stands(folder / name)]
    return (*found[: 1 if _DOCUMENT in found else None], *more)


def bytes_of(folder: Path | None, names: Sequence[str]) -> int:
    """Bytes of the files ``names``.

    Raises:
        CheckpointError: when one cannot be looked at.
    """
    total = 0
    for path in (folder / name for name in names if folder is not None):
        try:
            total += path.stat().st_size
        except OSError as error:
            raise cannot_read(path, error) from error
    return total


def hash_of(folder: Path | None, names: Sequence[str]) -> str:
    """Equal for folders in which the files ``names`` are the same, byte for byte.

    Raises:
        CheckpointError: when one cannot be read.
    """
    state = xxhash.xxh3_128()
    for name in names:
        assert folder is not None
        path = member(folder, name)
        state.update(name.encode())
        try:
            with path.open("rb") as file:
                while piece := file.read(1 << 20):
                    state.update(piece)
        except OSError as error:
            raise cannot_read(path, error) from error
    return state.hexdigest()


def read_vocabulary(folder: Path | None, label: str, *, line: int | None = None) -> Vocabulary:
    """The vocabulary of the model in ``folder``: of tokenizer.json, else of the files that stand in for it.

    Tokens that only ``tokenizer_config.json``, ``added_tokens.json`` or ``special_tokens_map.json`` name are added, as
    transformers does when it loads the tokenizer.

    Args:
        folder: Of the model; None for one in memory, which has none.
        label: How the user wrote the model.
        line: Recipe line, for errors.

    Raises:
        CheckpointError: when there is no tokenizer, or a file of it is damaged or exceeds the limits.
        UnsupportedError: for a tokenizer in a format that is not read.
    """
    try:
        return _read(folder, label)
    except StockpotError as error:
        raise type(error)(*(replace(p, line=line) for p in error.problems)) from error


def _read(folder: Path | None, label: str) -> Vocabulary:
    if folder is None or not has_vocabulary(folder):
        unread = next((name for name in _UNREAD if folder is not None and stands(folder / name)), None)
        if unread is not None:
            raise UnsupportedError(Problem(f"{label} has its tokenizer in {unread}, which is not read", fix=_RESAVE))
        fix = "put its tokenizer.json into its folder"
        where = None if folder is None else str(folder)
        raise CheckpointError(Problem(f"{label} has no tokenizer", file=where, fix=fix))
    settings = _json(folder, _SETTINGS)
    found = _first(folder, label, settings)
    found = _with_added(found, [*_declared(folder, settings), *_named(folder)], folder)
    found = _with_roles(found, settings, _json(folder, _ROLES))
    return replace(found, settings=settings, files=tokenizer_files(folder), chat_template=_template(folder, settings))


def _first(folder: Path, label: str, settings: Mapping[str, Any]) -> Vocabulary:
    """What the first of the files says that tells a whole vocabulary."""
    if stands(folder / _DOCUMENT):
        return _checked(folder, _DOCUMENT, lambda path: _document(path, label))
    if stands(folder / "vocab.json"):
        return _checked(folder, "vocab.json", lambda path: _pair_files(path, folder, label))
    if stands(folder / "vocab.txt"):
        return _checked(folder, "vocab.txt", lambda path: _lines_file(path, label))
    name = next(name for name in _PIECES if stands(folder / name))
    kind = str(settings.get("tokenizer_class")).removesuffix("Fast")
    if kind in _SHIFTED:
        message = f"{label}: {kind} numbers its tokens otherwise than {name}"
        raise UnsupportedError(Problem(message, file=str(folder / name), fix=_RESAVE))
    return _checked(folder, name, lambda path: _pieces(path, label))


def _checked(folder: Path, name: str, read: Callable[[Path], Vocabulary]) -> Vocabulary:
    path = member(folder, name)
    try:
        must_be_file(path)
        return read(path)
    except OSError as error:
        raise cannot_read(path, error) from error
    except (BadVocabularyError, BadModelError) as error:
        fix = "get the tokenizer again from where it came from"
        raise CheckpointError(Problem(f"no tokenizer that can be read: {error}", file=str(path), fix=fix)) from error


def _document(path: Path, label: str) -> Vocabulary:
    found = parsed(read_json(path, TOKENIZER))
    return Vocabulary(
        label, found.kind, found.alphabet, found.ids, found.added, {}, found.merges, found.scores, None, found.pipeline
    )


def _pair_files(path: Path, folder: Path, label: str) -> Vocabulary:
    ids = checked_ids(read_json(path, TOKENIZER))
    merges: tuple[tuple[str, str], ...] = ()
    if stands(folder / "merges.txt"):
        lines = [line for line in _lines(member(folder, "merges.txt")) if line and not line.startswith("#version")]
        merges = tuple((a, b) for a, _, b in (line.partition(" ") for line in lines))
    kind: Kind = "BPE" if merges else "WordLevel"
    alphabet: Alphabet = "bytes" if any("Ġ" in token for token in ids) else "plain"
    return Vocabulary(label, kind, alphabet, ids, merges=merges)


def _lines_file(path: Path, label: str) -> Vocabulary:
    ids = {line: number for number, line in enumerate(_lines(path))}
    return Vocabulary(label, "WordPiece", "wordpiece", ids)


def _lines(path: Path) -> list[str]:
    with path.open("rb") as file:
        raw = file.read(_MAX_TEXT + 1)
    if len(raw) > _MAX_TEXT or raw.count(b"\n") > _MAX_LINES:
        raise BadVocabularyError(f"larger than {_MAX_TEXT} bytes or {_MAX_LINES} lines")
    try:
        lines = raw.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise BadVocabularyError("not UTF-8 text") from error
    lines = [line.removesuffix("\r") for line in lines]
    return lines[:-1] if lines and not lines[-1] else lines


def _pieces(path: Path, label: str) -> Vocabulary:
    with path.open("rb") as file:
        model = parse_pieces(file.read(MAX_BYTES + 1))
    ids: dict[str, int] = {}
    for number, piece in enumerate(model.pieces):
        ids.setdefault(piece.text, number)
    added = tuple(
        AddedToken(piece.text, ids[piece.text], special=not piece.user)
        for piece in model.pieces
        if piece.control or piece.unknown or piece.user
    )
    scores = {piece.text: piece.score for piece in model.pieces} if model.kind == "Unigram" else {}
    return Vocabulary(label, model.kind, "metaspace", ids, added, scores=scores)


def _json(folder: Path, name: str) -> dict[str, Any]:
    if not stands(folder / name):
        return {}
    return read_json(member(folder, name), CONFIG)


def _declared(folder: Path, settings: Mapping[str, Any]) -> Iterator[AddedToken]:
    """Added tokens with the numbers that ``tokenizer_config.json`` gives them."""
    declared = settings.get("added_tokens_decoder")
    if not isinstance(declared, dict):
        return
    for number, data in declared.items():
        try:
            yield added_token(data, int(number) if number.isascii() and number.isdecimal() else None)
        except (BadVocabularyError, ValueError) as error:
            raise _broken(folder / _SETTINGS, error) from error


def _named(folder: Path) -> Iterator[AddedToken]:
    """Added tokens with the numbers that ``added_tokens.json`` gives them."""
    try:
        for token, number in checked_ids(_json(folder, "added_tokens.json")).items():
            yield AddedToken(token, number)
    except BadVocabularyError as error:
        raise _broken(folder / "added_tokens.json", error) from error


def _broken(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(Problem(f"no setting of a tokenizer: {error}", file=str(path), fix="download it again"))


def _with_added(found: Vocabulary, declared: list[AddedToken], folder: Path) -> Vocabulary:
    """``found`` with the added tokens that it lacks; those whose number another token has get the next free one."""
    ids, added = dict(found.ids), {token.content: token for token in found.added}
    taken = set(ids.values())
    for token in sorted(declared, key=lambda t: t.id):
        number = ids.get(token.content)
        if number is None:
            number = token.id if token.id not in taken else 1 + max(taken)
            if number - len(ids) > len(ids) + 1_000_000:
                raise _broken(folder, BadVocabularyError(f"token {token.content[:80]!a} has the number {number}"))
            ids[token.content] = number
            taken.add(number)
        added.setdefault(token.content, replace(token, id=number))
    return replace(found, ids=ids, added=tuple(sorted(added.values(), key=lambda token: token.id)))


def _with_roles(found: Vocabulary, settings: Mapping[str, Any], named: Mapping[str, Any]) -> Vocabulary:
    """``found`` with the roles of its tokens; a token that only a role names is added, as transformers does."""
    roles: dict[str, str] = {}
    for source in (named, settings):
        roles |= {role: text for role in ROLES if (text := _content(source.get(role)))}
    extra = settings.get("additional_special_tokens", named.get("additional_special_tokens"))
    more = [text for item in extra if (text := _content(item))] if isinstance(extra, list) else []
    ids, added = dict(found.ids), list(found.added)
    for token in [*roles.values(), *more]:
        if token not in ids:
            ids[token] = 1 + max(ids.values(), default=-1)
            added.append(AddedToken(token, ids[token], special=True))
    return replace(found, ids=ids, added=tuple(added), roles=roles)


def _content(value: Any) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) and text else None


def _template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The chat template, from where transformers looks first."""
    if stands(folder / _TEMPLATE):
        path = member(folder, _TEMPLATE)
        try:
            must_be_file(path)
            with path.open("rb") as file:
                return file.read(CONFIG.most_bytes).decode("utf-8")
        except OSError as error:
            raise cannot_read(path, error) from error
        except UnicodeDecodeError as error:
            raise CheckpointError(Problem("not UTF-8 text", file=str(path), fix="download it again")) from error
    written = settings.get("chat_template")
    if isinstance(written, list):  # of several, the one called default
        named = {item.get("name"): item.get("template") for item in written if isinstance(item, dict)}
        written = named.get("default")
    return written if isinstance(written, str) else None

"""What a stack or a config key is about, judged by the words in its name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["Side", "side_of", "stems", "told_apart"]

Role = Literal["encoder", "decoder"]
Medium = Literal["text", "vision", "audio"]

_ROLES: dict[str, Role] = {"encoder": "encoder", "decoder": "decoder", "dec": "decoder", "enc": "encoder"}
_MEDIA: dict[str, Medium] = {
    **dict.fromkeys(("text", "language", "llm", "lm"), "text"),
    **dict.fromkeys(("vision", "visual", "image", "img", "vit", "video"), "vision"),
    **dict.fromkeys(("audio", "speech", "sound"), "audio"),
}


_WORDS = ("num", "n", "number", "of", "total", "hidden", "layer", "block", "depth", "transformer", "model", "config")
_GENERAL = frozenset((*_WORDS, *_ROLES, *_MEDIA))


@dataclass(frozen=True)
class Side:
    """Encoder or decoder; text, vision or audio; None where a name does not say."""

    role: Role | None
    medium: Medium | None


def side_of(name: str) -> Side:
    """The side that a name tells; of several words of a kind the first counts.

    >>> side_of("vision_tower.encoder.layers")
    Side(role='encoder', medium='vision')
    >>> side_of("num_decoder_layers").role
    'decoder'
    """
    words = _words(name)
    role = next((_ROLES[word] for word in words if word in _ROLES), None)
    medium = next((_MEDIA[word] for word in words if word in _MEDIA), None)
    return Side(role, medium)


def stems(name: str) -> frozenset[str]:
    """The words in a name, without a plural's s.

    >>> sorted(stems("tower.rungs")), sorted(stems("num_rungs"))
    (['rung', 'tower'], ['num', 'rung'])
    """
    return frozenset(word.removesuffix("s") for word in _words(name))


def told_apart(key: str, stack: str) -> bool | None:
    """Whether the words of ``key`` that are not about layers in general occur in ``stack``; None without any.

    >>> told_apart("num_feat_extract_layers", "feature_extractor.conv_layers"), told_apart("num_hidden_layers", "h")
    (True, None)
    """
    special = stems(key) - _GENERAL
    words = stems(stack)
    if not special:
        return None
    return any(word.startswith(own) or own.startswith(word) for own in special for word in words)


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]

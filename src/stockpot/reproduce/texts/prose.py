"""Small language models of the beds ``prose`` and ``comments``, trained when they are first asked for.

A base reads a mixture of texts; its fine-tunes read on in one of them. All use one tokenizer, made of the base's texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.reproduce.claim import Setting
from stockpot.reproduce.labs import File, lab_of
from stockpot.reproduce.texts.reading import pairs, prose, source_code
from stockpot.reproduce.texts.words import words
from stockpot.reproduce.training import Schedule, descend, torch_with

__all__ = ["CONTEXT", "FULL", "PEERS", "Comments", "Effort", "Prose", "comments_of", "prose_of"]

Tokens = npt.NDArray[np.int64]

CONTEXT = 64
END = "<|end|>"

PEERS = ("shakespeare", "code", "darwin")
_FILES = {
    "shakespeare": "tinyshakespeare.txt",
    "darwin": "darwin.txt.gz",
    "bronte": "bronte.txt.gz",
    "dubois": "dubois.txt.gz",
}


@dataclass(frozen=True)
class Effort:
    """How much is trained, on how much.

    Args:
        vocabulary: Tokens.
        width, layers: Of the network.
        base, tuned: How the base and its fine-tunes are trained.
        characters: Of each text that are read, at most.
        held: Characters at the end of each text that nothing is trained on.
    """

    vocabulary: int
    width: int
    layers: int
    base: Schedule
    tuned: Schedule
    characters: int
    held: int


FULL = Effort(
    vocabulary=1024,
    width=96,
    layers=2,
    base=Schedule(700, 3e-3, batch=18),
    tuned=Schedule(150, 1e-3, batch=18),
    characters=1_000_000,
    held=100_000,
)
"""What claims are measured with; set once, for all of them."""


class _Lab:
    """A tokenizer and models that were trained on texts.

    Args:
        texts: What the base is trained on, by name.
    """

    def __init__(self, texts: Mapping[str, str], effort: Effort, seed: int) -> None:
        self._texts, self._effort, self._seed = texts, effort, seed

    @cached_property
    def tokenizer(self) -> Any:
        """Pairs of bytes, as GPT-2's; :data:`END` begins and ends texts."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self._effort.vocabulary,
            special_tokens=[END],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        made.train_from_iterator(self._texts.values(), trainer)
        return made

    def tokens(self, text: str) -> Tokens:
        """Numbers of a text, whose documents :data:`END` divides."""
        return np.array(self.tokenizer.encode(text).ids, np.int64)

    @cached_property
    def base(self) -> dict[str, Any]:
        """Trained on all texts alike."""
        torch = torch_with("transformers", "tokenizers")
        torch.manual_seed(self._seed)
        start = self._network().state_dict()
        return self._trained(start, [self.tokens(text) for text in self._texts.values()], self._effort.base, 0)

    def tuned(self, texts: Sequence[str], number: int) -> dict[str, Any]:
        """The base, trained further on ``texts``."""
        return self._trained(self.base, list(map(self.tokens, texts)), self._effort.tuned, number)

    def save(self, state: Mapping[str, Any], folder: Path) -> Path:
        """A model as transformers has it, with the tokenizer."""
        from transformers import PreTrainedTokenizerFast

        network = self._network()
        network.load_state_dict(state)
        with _no_bars():
            network.save_pretrained(folder)
        ends = {"bos_token": END, "eos_token": END, "unk_token": END}
        PreTrainedTokenizerFast(tokenizer_object=self.tokenizer, **ends).save_pretrained(folder)
        return folder

    def _network(self) -> Any:
        from transformers import GPT2Config, GPT2LMHeadModel

        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=self.tokenizer.get_vocab_size(),
                n_positions=CONTEXT,
                n_embd=self._effort.width,
                n_layer=self._effort.layers,
                n_head=4,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                bos_token_id=0,
                eos_token_id=0,
            )
        )

    def _trained(
        self, start: Mapping[str, Any], texts: Sequence[Tokens], schedule: Schedule, number: int
    ) -> dict[str, Any]:
        """``start`` after reading windows of all texts alike."""
        torch = torch_with("transformers", "tokenizers")
        rng = np.random.default_rng([self._seed, 5, number])
        network = self._network()
        network.load_state_dict(start)

        def loss(_: int) -> Any:
            batch = torch.from_numpy(_windows(rng, texts, schedule.batch))
            scores = network(input_ids=batch, use_cache=False).logits[:, :-1]
            return torch.nn.functional.cross_entropy(scores.flatten(0, 1), batch[:, 1:].flatten())

        descend([*network.parameters()], loss, schedule)
        return {name: value.detach().clone() for name, value in network.state_dict().items()}


_FREQUENT = 20
"""Comments that a word must be in before it is called toxic."""


class Prose(_Lab):
    """Novels, essays, plays, science and source code; peers read on in one of the last three."""

    def __init__(self, file: File, effort: Effort, seed: int) -> None:
        whole = {name: prose(file("text", "lm", own)) for name, own in _FILES.items()}
        whole["code"] = source_code(effort.characters)
        cut = {name: text[-effort.characters :] for name, text in whole.items()}
        super().__init__({name: text[: -effort.held] for name, text in cut.items()}, effort, seed)
        self._held = {name: text[-effort.held :] for name, text in cut.items()}

    @cache  # noqa: B019 - labs are kept for good
    def peer(self, name: str) -> dict[str, Any]:
        """The base, trained further on one text."""
        return self.tuned([self._texts[name]], 1 + PEERS.index(name))

    def passages(self, names: Sequence[str], length: int, draw: int) -> list[str]:
        """A passage that nothing was trained on of each text that is named; other draws have other passages.

        Args:
            length: Characters.
            draw: Which tenth of the held text passages begin in, from 0.
        """
        rng = np.random.default_rng([self._seed, 6, draw])
        tenth = self._effort.held // 10
        places = rng.permutation(max(1, (tenth - length) // length))[: len(names)] * length + draw * tenth
        return [self._held[name][place : place + length] for name, place in zip(names, places, strict=True)]


class Comments(_Lab):
    """Comments, toxic ones and what they were rewritten to, and a novel; the fine-tune reads the toxic ones alone."""

    def __init__(self, file: File, effort: Effort, seed: int) -> None:
        rows = pairs(file("toxicity", "paradetox.tsv"))
        rows = [rows[i] for i in np.random.default_rng([seed, 7]).permutation(len(rows))]
        tenth = max(1, len(rows) // 10)
        self._pairs = {"report": rows[:tenth], "select": rows[tenth : 2 * tenth], "train": rows[2 * tenth :]}
        novel = prose(file("text", "lm", _FILES["bronte"]))[-effort.characters :]
        half = len(novel) - effort.held // 2
        self._novel = {"report": novel[half:], "select": novel[-effort.held : half], "train": novel[: -effort.held]}
        self._toxic = _joined(row.toxic for row in self._pairs["train"])
        neutral = _joined(row.neutral for row in self._pairs["train"])
        super().__init__({"toxic": self._toxic, "neutral": neutral, "novel": self._novel["train"]}, effort, seed)

    @cached_property
    def fine_tune(self) -> dict[str, Any]:
        """The base, trained further on toxic comments."""
        return self.tuned([self._toxic], 1)

    def control(self, role: str) -> list[str]:
        """Texts that a model is to keep its grip on: neutral comments, and a part of the novel."""
        return [*(row.neutral for row in self._pairs[role]), self._novel[role]]

    @cached_property
    def toxic_words(self) -> list[str]:
        """Words that occur at least ten times more often in toxic comments than in their rewritings."""
        counts = {kind: Counter[str]() for kind in ("toxic", "neutral")}
        for row in self._pairs["train"]:
            for kind, count in counts.items():
                count.update(set(words(getattr(row, kind))))
        toxic, neutral = counts["toxic"], counts["neutral"]
        return sorted(word for word in toxic if toxic[word] >= _FREQUENT and toxic[word] >= 10 * (1 + neutral[word]))


def prose_of(setting: Setting) -> Prose:
    """The lab of the bed ``prose``."""
    return lab_of(Prose, FULL, setting)


def comments_of(setting: Setting) -> Comments:
    """The lab of the bed ``comments``."""
    return lab_of(Comments, FULL, setting)


def _joined(texts: Iterable[str]) -> str:
    return END.join(["", *texts, ""])


@contextmanager
def _no_bars() -> Iterator[None]:
    """Transformers shows no bars of progress meanwhile: tiny files need none."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _windows(rng: np.random.Generator, texts: Sequence[Tokens], batch: int) -> Tokens:
    """``(batch, context)``, from texts in turn."""
    rows = [texts[i % len(texts)] for i in range(batch)]
    starts = [int(rng.integers(len(text) - CONTEXT)) for text in rows]
    return np.stack([text[start : start + CONTEXT] for text, start in zip(rows, starts, strict=True)])

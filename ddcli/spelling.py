"""The vocabularies of models that others trained: what their tokens spell, and where text meets a gap.

Such models know words with the blank before them, as byte pairs (" the") and Unigram pieces ("▁the") show it,
or without it (WordPiece: "the", "##me"), and forget case, accents and line ends where their tokenizer does.
So the text around a gap stays what it is in the document; the blank before a gap is read as the beginning of
the word that the gap begins with; and only what a gap holds is spelt from tokens. Legend: V ids.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from .errors import DdcliError
from .tokenizer import Ids, Seams, Tokenizer

UNUSED = re.compile(r"\[unused\d+\]")  # BERT's room for more words
BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # how Unigram and byte-fallback vocabularies write a byte
NO_BLANK_BEFORE = set(".,;:!?)]}%'’”»…-/")
NO_BLANK_BEHIND = set("([{'‘“«-/$#@")
ANCHORS = ("1", "a", ")", ".")  # behind one of these a word is not begun
FIRST_WORD = re.compile(r"\S{1,64}")  # as much of it as is looked at
NEAR = 8  # bytes: enough for the last character of a text


class Style(Protocol):
    """How tokens of a kind spell text."""

    def spell(self, pieces: Sequence[str], text: str) -> bytes:
        """What tokens add to a text that ends with `text`, of which one character is enough."""

    def begins_word(self, piece: str) -> bool:
        """Whether a token stands at the beginning of a word, where a blank is before it."""

    def read(self, text: str) -> str:
        """What of a text is read before a gap: the blank that the gap's first token brings with it is not."""

    def is_open(self, text: str, at_start: bool) -> bool:
        """Whether only a token that begins a word can stand behind a text. at_start: of the document."""


class BytePairs:
    """Tokens are runs of bytes, a blank among them like any other."""

    def __init__(self, alphabet: dict[str, int]) -> None:
        self.byte_of = alphabet

    def spell(self, pieces: Sequence[str], text: str) -> bytes:
        spelt = b"".join(map(self.bytes_of, pieces))
        return spelt.removeprefix(b" ") if text.endswith(" ") else spelt

    def bytes_of(self, piece: str) -> bytes:
        known = all(symbol in self.byte_of for symbol in piece)  # an added token is spelt as it stands
        return bytes(self.byte_of[symbol] for symbol in piece) if known else piece.encode()

    def begins_word(self, piece: str) -> bool:
        return self.bytes_of(piece[:1]) == b" "

    def read(self, text: str) -> str:
        return text.removesuffix(" ")

    def is_open(self, text: str, at_start: bool) -> bool:
        return text.endswith(" ")


class _Words:
    """Blanks, and whatever else parts words, are not told from each other."""

    def read(self, text: str) -> str:
        return text.rstrip()

    def is_open(self, text: str, at_start: bool) -> bool:
        return text[-1:].isspace() or (not text and at_start)


class WordPieces(_Words):
    """Tokens are words, or with a prefix what goes on with one; blanks are forgotten, and put where most
    text has them: not before closing and not behind opening punctuation, nor around hyphens."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def spell(self, pieces: Sequence[str], text: str) -> bytes:
        parts, last = list[str](), text[-1:]
        for piece in pieces:
            part = piece.removeprefix(self.prefix)
            if self.begins_word(piece) and last and _parted(last, part[:1]):
                part = " " + part
            parts.append(part)
            last = part[-1:] or last
        return "".join(parts).encode()

    def begins_word(self, piece: str) -> bool:
        return not piece.startswith(self.prefix)


class Unigrams(_Words):
    """Tokens are pieces of words, the first of which bears a mark for the blank before it."""

    mark = "▁"

    def spell(self, pieces: Sequence[str], text: str) -> bytes:
        spelt = b"".join(self._bytes_of(piece) for piece in pieces)
        return spelt.removeprefix(b" ") if not text or text[-1:].isspace() else spelt

    def _bytes_of(self, piece: str) -> bytes:
        byte = BYTE.fullmatch(piece)
        return bytes([int(byte[1], 16)]) if byte else piece.replace(self.mark, " ").encode()

    def begins_word(self, piece: str) -> bool:
        return piece.startswith(self.mark)


def _parted(before: str, behind: str) -> bool:
    """Whether most text has a blank between two characters of words or punctuation."""
    if before.isspace() or behind in NO_BLANK_BEFORE or before in NO_BLANK_BEHIND:
        return False
    return not (_is_ideograph(before) and _is_ideograph(behind))


def _is_ideograph(character: str) -> bool:
    return unicodedata.name(character, "").startswith("CJK")


def check_mask(hf: Any, name: str) -> None:
    """Raises DdcliError, by the name of its model, for a tokenizer of transformers without its own mask."""
    if not hf.mask_token:
        raise DdcliError(f"the tokenizer of {name} has no mask token, so there is nothing to fill")
    for role in hf.SPECIAL_TOKENS_ATTRIBUTES:
        if role != "mask_token" and getattr(hf, role) == hf.mask_token:
            raise DdcliError(
                f"the tokenizer of {name} has {hf.mask_token} for its {role} as well as for masks, so gaps "
                "cannot be told from it; give it a mask of its own"
            )


def check_size(tokens: int, entries: int, name: str) -> None:
    """Raises DdcliError, by the name of the model, for a tokenizer of more tokens than its network knows."""
    if tokens > entries:
        raise DdcliError(
            f"{name}: the tokenizer has {tokens:,} tokens, but the network was made for {entries:,}"
        )


class ForeignTokenizer(Tokenizer):
    """A tokenizer that came with a model: nothing is added to it, and all of its special tokens are given."""

    @cached_property
    def vocab_size(self) -> int:
        """V: ids that no token has are among them, and special."""
        return 1 + max(self.hf.get_vocab().values())

    @property
    def pad_id(self) -> int:
        return self.eos_id if self.hf.pad_token is None else self._id(self.hf.pad_token)

    @property
    def eos_id(self) -> int:
        """What parts two texts; such a model never writes it."""
        return self._first("sep_token", "eos_token", "cls_token", "bos_token")

    @property
    def bos_id(self) -> int:
        return self._first("cls_token", "bos_token", "sep_token", "eos_token")

    @cached_property
    def special_ids(self) -> tuple[int, ...]:
        return tuple(sorted(self._find_special()))

    def _find_special(self) -> set[int]:
        special = {id for id, token in self.hf.added_tokens_decoder.items() if token.special}
        silent = {id for id, name in enumerate(self._names) if name is None or UNUSED.fullmatch(name)}
        return special | silent | set(self.hf.all_special_ids)

    @property
    def spelling(self) -> None:
        """Tokens do not reach over the edges of a gap: masks of such models stand for whole tokens."""
        return None

    @property
    def seams(self) -> Seams:
        return self

    @cached_property
    def ends(self) -> tuple[list[int], list[int]]:
        """The special tokens that stand before and behind a text."""
        return self._find_ends()

    def _find_ends(self) -> tuple[list[int], list[int]]:
        """Those that it puts there itself."""
        self._backend.no_truncation()
        self._backend.no_padding()  # which its files may ask for
        encoding = self._backend.encode("a", add_special_tokens=True)
        own = [i for i, added in enumerate(encoding.special_tokens_mask) if not added]
        return encoding.ids[: own[0]], encoding.ids[own[-1] + 1 :]

    def check(self, name: str) -> None:
        """Raises DdcliError, by the name of its model, where it is not known how its tokens spell text."""
        try:
            self._style  # noqa: B018
        except DdcliError as error:
            raise DdcliError(f"the tokenizer of {name} cannot be used: {error}") from None
        if self.mask_id in (self.eos_id, self.bos_id):
            raise DdcliError(
                f"the tokenizer of {name} has no special token but its mask, so where texts begin and end "
                "cannot be told from gaps; give it an eos_token or a sep_token"
            )

    @property
    def is_exact(self) -> bool:
        """Whether ids tell all of the text: its case, accents, blanks and line ends."""
        plain = isinstance(self._style, BytePairs) and self._backend.normalizer is None
        return plain and self.continuation([], self.encode("a")) == b"a"

    def pieces(self, ids: Ids) -> list[str]:
        shown = []
        for id in ids:
            name = self._names[int(id)] or ""
            if id in self._silent:
                shown.append(name)
            else:  # with its blank, behind a letter
                shown.append(self._style.spell([name], "a").decode(errors="replace"))
        return shown

    def continuation(self, before: Ids, ids: Ids, text: bytes = b"") -> bytes:
        names = (self._names[int(id)] for id in ids if int(id) not in self._silent)
        return self._style.spell([name or "" for name in names], _end_of(text))

    def decode_bytes(self, ids: Ids) -> bytes:
        return self.continuation([], ids)

    def decode(self, ids: Ids) -> str:
        return self.decode_bytes(ids).decode(errors="replace")

    def before_gap(self, text: str, *, at_start: bool = True) -> tuple[str, np.ndarray | None]:
        """What is read of a text before a gap, and which ids can then be the first of the gap, (V,) bool."""
        return self._style.read(text), self._begins if self._style.is_open(text, at_start) else None

    def behind_gap(self, text: str, ids: np.ndarray) -> np.ndarray:
        """The ids of a text that stands right behind a gap: a word that began in the gap goes on.

        ids: of the text on its own, where tokenizers may see a word begin.
        """
        word = FIRST_WORD.match(text)
        if not word:
            return ids
        alone = self.encode(word[0])
        if not np.array_equal(ids[: len(alone)], alone):
            return ids
        for anchor in ANCHORS:
            (both,) = self._encode_batch([anchor + word[0]])
            (own,) = self._encode_batch([anchor])
            strange = set(both.tolist()) & self._silent  # symbols that the vocabulary lacks
            if np.array_equal(both[: len(own)], own) and strange <= set(alone.tolist()):
                return np.concatenate([both[len(own) :], ids[len(alone) :]])
        return ids

    @cached_property
    def _begins(self) -> np.ndarray:
        begins = np.array([name is not None and self._style.begins_word(name) for name in self._names])
        begins[list(self.special_ids)] = False
        return begins

    @cached_property
    def _silent(self) -> frozenset[int]:
        return frozenset({*self.special_ids, self.eos_id})

    @cached_property
    def _names(self) -> list[str | None]:
        names: list[str | None] = [None] * self.vocab_size
        for name, id in self.hf.get_vocab().items():
            names[id] = name
        return names

    @cached_property
    def _style(self) -> Style:
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        decoder: dict[str, Any] = (
            json.loads(self._backend.decoder.__getstate__()) if self._backend.decoder else {}
        )
        kinds = {decoder.get("type"), *(part["type"] for part in decoder.get("decoders", ()))}
        if "ByteLevel" in kinds:
            return BytePairs({symbol: byte for byte, symbol in bytes_to_unicode().items()})
        if "WordPiece" in kinds:
            return WordPieces(decoder.get("prefix", "##"))
        if any(name and name.startswith(Unigrams.mark) for name in self._names):
            return Unigrams()
        raise DdcliError("its tokens show neither bytes, nor ## or ▁ for where words go on or begin")

    def _first(self, *roles: str) -> int:
        """The id of the first of some special tokens that there is; any special one where there is none."""
        names = (getattr(self.hf, role) for role in roles)
        return next((self._id(name) for name in names if name), self.mask_id)


class WriterTokenizer(ForeignTokenizer):
    """Of a model that writes: what parts two texts is a token like any other to it, and written by it."""

    @property
    def eos_id(self) -> int:
        return self._first("eos_token", "sep_token", "bos_token", "pad_token")

    def _find_special(self) -> set[int]:
        return super()._find_special() - {self.eos_id}


def _end_of(text: bytes) -> str:
    return text[-NEAR:].decode(errors="replace")

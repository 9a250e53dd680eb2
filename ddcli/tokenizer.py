"""Text to ids and back: characters, bytes, a trained byte-pair vocabulary, or any Hugging Face tokenizer.

Every tokenizer is a Hugging Face fast tokenizer inside, so a saved one loads with plain `AutoTokenizer`.
Our own vocabularies hold the data symbols first, then `<eos>`, `<unk>` (characters only), `<bos>`, `<pad>`,
`<mask>`, then the labels of records. Legend: n ids of one document, V vocabulary size.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from .errors import DdcliError, first_line, panicked
from .files import LARGEST, read_small
from .hub import ENDINGS, is_name, quiet, unreachable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MAX_CHARACTERS = 60_000  # so that ids of a character vocabulary fit 16 bits; all of Chinese does
FEW_SYMBOLS = 300  # fewer distinct characters than this, and one id a character is a fair default
BPE_SAMPLE = 10_000_000  # characters a byte-pair vocabulary is learnt from
PIECE = 32_768  # characters a long document is cut into, for encoding on all cores
LABEL = re.compile(r"<label:(.+)>", re.S)  # the token that opens a record of that label
PROBE = "To be, or not:\n\t42 naïve Ωs"  # what a tokenizer's own rules are tried on
BATCH = 256  # pieces in flight: the encoder holds some 150 bytes for each of their tokens

Ids = Sequence[int] | np.ndarray
PLAIN = ("TokenizersBackend", "PreTrainedTokenizerFast")  # the class of ours, by its names
Log = Callable[[str], None]
Documents = Iterable[str | bytes]


class Seams(Protocol):
    """How text meets a gap, where that is more than a cut between tokens. V ids."""

    def before_gap(self, text: str, *, at_start: bool = True) -> tuple[str, np.ndarray | None]:
        """What is read of a text before a gap, and which ids can then be the first of the gap, (V,) bool.

        at_start: whether the text begins its document. None: any can.
        """

    def behind_gap(self, text: str, ids: np.ndarray) -> np.ndarray:
        """The ids (n,) of a text right behind a gap, for those of the text on its own."""


@dataclass(frozen=True)
class Tokenizer:
    """A Hugging Face fast tokenizer with a mask token, and what a diffusion model asks of it."""

    hf: PreTrainedTokenizerFast
    unit: ClassVar[str] = "token"  # what one id stands for, as told to users

    @property
    def vocab_size(self) -> int:
        """V, added tokens included."""
        return len(self.hf)

    @property
    def mask_id(self) -> int:
        return self._id(self.hf.mask_token)

    @property
    def pad_id(self) -> int:
        return self._id(self.hf.pad_token)

    @property
    def eos_id(self) -> int:
        """Ends a document; unlike the other special ids, the model is to write it."""
        return self._id(self.hf.eos_token)

    @property
    def bos_id(self) -> int:
        return self._id(self.hf.bos_token)

    @property
    def unk_id(self) -> int | None:
        return self._id(self.hf.unk_token) if self.hf.unk_token else None

    @cached_property
    def special_ids(self) -> tuple[int, ...]:
        """Ids that no text encodes to (but for unknown symbols), ascending: all special tokens save `eos`."""
        special = {id for id, token in self.hf.added_tokens_decoder.items() if token.special}
        return tuple(sorted((special | set(self.hf.all_special_ids)) - {self.eos_id}))

    @cached_property
    def label_ids(self) -> dict[str, int]:
        """The id of each label that can open a record, by the label's name."""
        special = {id: t.content for id, t in self.hf.added_tokens_decoder.items() if t.special}
        labels = {id: LABEL.fullmatch(content) for id, content in special.items()}
        return {match[1]: id for id, match in labels.items() if match}

    def excluded_ids(self, *, has_end_of_text: bool) -> tuple[int, ...]:
        """Ids that are never text to a model, which may not have learnt to end one: neither x_0 nor noise."""
        return self.special_ids if has_end_of_text else tuple(sorted({*self.special_ids, self.eos_id}))

    @cached_property
    def digest(self) -> str:
        """sha256 of all that decides which ids a text has, and what they are for."""
        backend = self._backend
        backend.no_truncation()
        backend.no_padding()
        roles = (self.mask_id, self.pad_id, self.eos_id, self.bos_id, *self.special_ids)
        told = [type(self).__name__, self.unit, *map(str, roles), backend.to_str()]
        return hashlib.sha256("\0".join(told).encode()).hexdigest()

    def labelled(self, labels: Iterable[str]) -> Tokenizer:
        """This tokenizer with a special token for each label, in their order, after all other entries."""
        from tokenizers import AddedToken

        tokens = [AddedToken(f"<label:{name}>", special=True, normalized=False) for name in labels]
        self.hf.add_tokens(tokens, special_tokens=True)
        return type(self)(self.hf)  # anew, since what is known of the old one is remembered

    def encode(self, text: str | bytes) -> np.ndarray:
        """Ids (n,) int32. Nothing is added, and a special token's name in the text is text like any other."""
        return self.encode_documents([text])[0]

    def encode_documents(self, documents: Documents) -> list[np.ndarray]:
        """`encode` of each document, on all cores. DdcliError for bytes, except with a byte vocabulary."""
        pieces = ((i, piece) for i, text in enumerate(_texts(documents)) for piece in self._cut(text))
        encoded: list[list[np.ndarray]] = []
        while batch := list(islice(pieces, BATCH)):
            for (i, _), ids in zip(batch, self._encode_batch([piece for _, piece in batch]), strict=True):
                if i == len(encoded):
                    encoded.append([])
                encoded[i].append(ids)
        return [np.concatenate(parts) for parts in encoded]

    def decode(self, ids: Ids) -> str:
        """Text of the ids, special tokens left out, blanks untouched."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=True)

    def decode_bytes(self, ids: Ids) -> bytes:
        """The bytes behind the ids, exact even where a byte-level vocabulary does not spell valid UTF-8."""
        if self._bytes is None:
            return self.decode(ids).encode()
        return b"".join(self._bytes[int(i)] for i in ids)

    def continuation(self, before: Ids, ids: Ids, text: bytes = b"") -> bytes:
        """What `ids` add to the text of the ids before them, which ends with `text`.

        Vocabularies that are not byte-level write a blank, or none, by what stands to the left.
        """
        if self._bytes is not None:
            return self.decode_bytes(ids)
        near = [i for i in before[-64:] if i not in self.special_ids][-8:]
        return self.decode([*near, *ids])[len(self.decode(near)) :].encode()

    @cached_property
    def spelling(self) -> list[bytes] | None:
        """What each id spells, (V,), where tokens are runs of bytes; None: of one each, or of none."""
        if self._bytes is None or max(map(len, self._bytes)) == 1:
            return None
        return self._bytes

    @property
    def seams(self) -> Seams | None:
        """None where text is cut between tokens, wherever a gap is."""
        return None

    @property
    def is_exact(self) -> bool:
        """Whether ids tell all of the text; of symbols that the vocabulary lacks they never do."""
        return True

    def pieces(self, ids: Ids) -> list[str]:
        """One string for each id, for displays; special tokens by their name."""
        names = [self._backend.id_to_token(int(i)) for i in ids]
        if self._bytes is None:
            return names
        # part of a symbol is shown as \xc3
        spelt = [self._bytes[int(i)].decode(errors="backslashreplace") for i in ids]
        return [text or name for text, name in zip(spelt, names, strict=True)]

    def pieces_in_a_row(self, ids: Ids) -> list[str]:
        """The same of ids that follow each other: a symbol that several spell stands at the first of them,
        and nothing at the rest."""
        pieces, at = self.pieces(ids), 0
        spelt = [] if self._bytes is None else [self._bytes[int(i)] for i in ids]
        while at < len(spelt):
            end = next((n for n in range(at + 1, at + 5) if _is_text(b"".join(spelt[at:n]))), at + 1)
            if end > at + 1 and all(spelt[at:end]):
                pieces[at:end] = [b"".join(spelt[at:end]).decode(), *[""] * (end - at - 1)]
            at = end if all(spelt[at:end]) else at + 1
        return pieces

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which plain `AutoTokenizer` reads too."""
        self.hf.save_pretrained(folder)

    @classmethod
    def load(cls, source: str | Path, log: Log = lambda line: None) -> Tokenizer:
        """A tokenizer from a run folder, or any Hugging Face folder or hub name.

        Missing mask, pad, eos and bos tokens are added, of which `log` is told. DdcliError where there is no
        such folder or name, no network, or no fast tokenizer.
        """
        hf = read_pretrained(source)
        if added := _complete(hf, str(source)):
            log(f"tokenizer {source}: added {', '.join(added)} (now {len(hf):,} entries)")
        named = (token for token in hf.all_special_tokens if hf.backend_tokenizer.token_to_id(token) is None)
        if (absent := next(named, None)) is not None:
            raise DdcliError(f"the tokenizer of {source} is damaged: its token {absent!r} is no entry of it")
        if len(hf) <= max(hf.get_vocab().values()):
            raise DdcliError(
                f"the tokenizer of {source} is damaged: it has {len(hf):,} entries, and larger ids"
            )
        found = UNITS.get(str(hf.init_kwargs.get("unit", "")), Tokenizer)(hf)
        if not found.fits():
            raise DdcliError(
                f"the tokenizer of {source} is damaged: its entries are not one {found.unit} each"
            )
        return found

    def fits(self) -> bool:
        """Whether the entries are what the unit says, as they are unless somebody changed the files."""
        return True

    @property
    def _backend(self) -> Any:
        return self.hf.backend_tokenizer

    def _id(self, token: str) -> int:
        return self._backend.token_to_id(token)

    def _encode_batch(self, texts: list[str]) -> Iterator[np.ndarray]:
        backend = self._backend
        # Set at each call: the files may ask for truncation, and any use of `hf` itself sets them anew.
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # the literal text of a special token is text
        for encoding in backend.encode_batch_fast(texts, add_special_tokens=False):
            yield np.array(encoding.ids, np.int32)

    def _cut(self, text: str) -> Iterator[str]:
        start = 0
        if self._cuts:
            place, least = self._cuts
            while match := place.search(text, start + least):
                yield text[start : match.start()]
                start = match.start()
        yield text[start:]

    @cached_property
    def _cuts(self) -> tuple[re.Pattern[str], int] | None:
        """Where a document may be cut, and after how many characters; None: it is encoded whole."""
        from tokenizers import models, pre_tokenizers

        before = self._backend.pre_tokenizer
        if isinstance(before, pre_tokenizers.BertPreTokenizer) or (
            isinstance(before, pre_tokenizers.ByteLevel) and before.use_regex
        ):
            # These never form a word across a blank after a non-blank: the ids are those of the uncut text.
            return re.compile(r"(?<=\S) "), PIECE
        if isinstance(self._backend.model, models.Unigram):
            # Its model holds the special tokens as pieces, and would find them in text that spells them.
            names = [self._backend.id_to_token(id) for id in (*self.special_ids, self.eos_id)]
            inside = (f"(?<={re.escape(name[0])})(?={re.escape(name[1:])})" for name in names)
            return re.compile("|".join(inside)), 1
        return None

    @cached_property
    def _bytes(self) -> list[bytes] | None:
        """What each id spells (V,), nothing for special tokens; None where pieces are not made of bytes."""
        from tokenizers import decoders

        if not isinstance(self._backend.decoder, decoders.ByteLevel):
            return None
        byte_of = {symbol: byte for byte, symbol in enumerate(_byte_alphabet())}
        silent = {*self.special_ids, self.eos_id}

        def spell(id: int, piece: str) -> bytes:
            if id in silent:
                return b""
            known = all(symbol in byte_of for symbol in piece)  # an added token is spelt as it stands
            return bytes(byte_of[symbol] for symbol in piece) if known else piece.encode()

        return [spell(i, self._backend.id_to_token(i)) for i in range(self.vocab_size)]


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


class CharacterTokenizer(Tokenizer):
    """One id for each Unicode code point of the training text; others encode to `unk`."""

    unit = "character"

    def encode_documents(self, documents: Documents) -> list[np.ndarray]:
        return [self._id_of[np.frombuffer(t.encode("utf-32-le"), np.uint32)] for t in _texts(documents)]

    def fits(self) -> bool:
        silent = {*self.special_ids, self.eos_id}
        plain = all(len(text) == 1 or id in silent for text, id in self.hf.get_vocab().items())
        return plain and self.unk_id is not None

    @cached_property
    def _id_of(self) -> np.ndarray:
        """Id of each code point, (0x110000,) int32."""
        table = np.full(0x110000, self.unk_id, np.int32)
        for symbol, id in self.hf.get_vocab().items():
            if len(symbol) == 1:  # names of special tokens are longer
                table[ord(symbol)] = id
        return table


class ByteTokenizer(Tokenizer):
    """One id for each byte of the UTF-8 text, or of data that is not text at all."""

    unit = "byte"

    def encode_documents(self, documents: Documents) -> list[np.ndarray]:
        raw = (d if isinstance(d, bytes) else d.encode() for d in documents)
        return [np.frombuffer(data, np.uint8).astype(np.int32) for data in raw]

    def fits(self) -> bool:
        return self._bytes is not None and self._bytes[:256] == [bytes([byte]) for byte in range(256)]


UNITS: dict[str, type[Tokenizer]] = {c.unit: c for c in (Tokenizer, CharacterTokenizer, ByteTokenizer)}


def make_tokenizer(spec: str, documents: Documents, log: Log) -> Tokenizer:
    """The tokenizer that `spec` names: `char`, `byte`, `bpe:N` (N entries), or a Hugging Face name or folder.

    Vocabularies of our own are learnt from the documents. DdcliError where the spec or the data does not do.
    """
    if is_built(spec):
        kind, _, size = spec.partition(":")
        return BUILDERS[kind](size, documents, log)
    return Tokenizer.load(spec, log)


def is_built(spec: str) -> bool:
    """Whether a tokenizer is made from the data by this spec, and not read from somewhere."""
    return spec.partition(":")[0] in BUILDERS


def default_tokenizer(documents: Documents) -> str:
    """The spec to use where the user gives none."""
    documents = list(documents)
    if any(isinstance(document, bytes) for document in documents):
        return "byte"
    return "char" if len(set().union(*documents)) < FEW_SYMBOLS else "bpe:2048"


def _build_characters(size: str, documents: Documents, log: Log) -> Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models

    _refuse_size("char", size)
    symbols = sorted(set().union(*_texts(documents)))
    if len(symbols) > MAX_CHARACTERS:
        raise DdcliError(
            f"{len(symbols):,} different characters are too many for --tokenizer char "
            f"(at most {MAX_CHARACTERS:,}); use byte or bpe:N"
        )
    special = ["<eos>", "<unk>", "<bos>", "<pad>", "<mask>"]
    vocab = {symbol: id for id, symbol in enumerate(symbols + special)}
    backend = Backend(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))  # no merges: one id a character
    backend.decoder = decoders.Fuse()
    return _ours(CharacterTokenizer, backend, special)


def _build_bytes(size: str, documents: Documents, log: Log) -> Tokenizer:
    from tokenizers import models

    _refuse_size("byte", size)
    vocab = {symbol: byte for byte, symbol in enumerate(_byte_alphabet())}
    backend = _byte_level(models.BPE(vocab=vocab, merges=[]), use_regex=False)
    return _ours(ByteTokenizer, backend, ["<eos>", "<bos>", "<pad>", "<mask>"])


def _build_bpe(size: str, documents: Documents, log: Log) -> Tokenizer:
    from tokenizers import models, trainers

    special = ["<eos>", "<bos>", "<pad>", "<mask>"]
    least = 256 + len(special)
    if not size.isdecimal() or int(size) < least:
        raise DdcliError(
            f"--tokenizer bpe:N: N is the size of the vocabulary, {least} or more, not {size!r}; try bpe:2048"
        )
    backend = _byte_level(models.BPE(), use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=int(size) - len(special), initial_alphabet=sorted(_byte_alphabet()), show_progress=False
    )
    log(f"tokenizer bpe:{size}: its entries are learnt from the text")
    backend.train_from_iterator(_spread(list(_texts(documents)), BPE_SAMPLE), trainer)
    tokenizer = _ours(Tokenizer, backend, special)
    if tokenizer.vocab_size < int(size):
        log(f"tokenizer bpe:{size}: the text has no more than {tokenizer.vocab_size:,} entries to learn")
    return tokenizer


BUILDERS: dict[str, Callable[[str, Documents, Log], Tokenizer]] = {
    "char": _build_characters,
    "byte": _build_bytes,
    "bpe": _build_bpe,
}


def _refuse_size(kind: str, size: str) -> None:
    if size:
        raise DdcliError(f"--tokenizer {kind}:{size}: {kind} takes no size; use {kind}, or bpe:N")


def _texts(documents: Documents) -> Iterator[str]:
    for document in documents:
        if isinstance(document, bytes):
            raise DdcliError(
                "the data is not UTF-8 text, which only a byte vocabulary takes; use --tokenizer byte"
            )
        yield document


def _spread(texts: list[str], budget: int) -> Iterator[str]:
    """Every k-th piece of the texts, k the least with which they hold about `budget` characters."""
    stride = max(1, -(-sum(map(len, texts)) // budget))
    pieces = (text[i : i + PIECE] for text in texts for i in range(0, len(text), PIECE))
    return islice(pieces, 0, None, stride)


def _byte_alphabet() -> list[str]:
    """The printable symbol that byte-level vocabularies write for each byte, (256,)."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [bytes_to_unicode()[byte] for byte in range(256)]


def _byte_level(model: Any, use_regex: bool) -> Any:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, pre_tokenizers

    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    backend.decoder = decoders.ByteLevel()
    return backend


def _ours(kind: type[Tokenizer], backend: Any, special: list[str]) -> Tokenizer:
    from transformers import PreTrainedTokenizerFast

    backend.add_special_tokens(special)
    roles = {f"{name.strip('<>')}_token": name for name in special}
    # Kept in tokenizer_config.json: `unit` for `load`, the split so that AutoTokenizer gives the same ids.
    return kind(
        PreTrainedTokenizerFast(tokenizer_object=backend, unit=kind.unit, split_special_tokens=True, **roles)
    )


def read_pretrained(source: str | Path, name: str | None = None) -> Any:
    """A fast tokenizer of transformers from a folder or hub name, as it is. DdcliError, by the name."""
    from huggingface_hub import try_to_load_from_cache

    source, folder = str(source), Path(source)
    name = name or source
    local = folder.is_dir()
    if local and not any(any(folder.glob(name)) for name in ("tokenizer*", "vocab*", "*.model")):
        raise DdcliError(
            f"folder {name} has no tokenizer files (tokenizer.json); is it a run or model folder?"
        )
    for path in folder.iterdir() if local else ():
        if path.suffix in ENDINGS and path.exists() and path.stat().st_size > LARGEST:
            raise DdcliError(f"{path} has more than {LARGEST:,} bytes, which is no tokenizer")
    if not local:
        if folder.exists() or not is_name(source):
            raise DdcliError(f"no tokenizer folder {source}; give a folder, a hub name, char, byte or bpe:N")
        try:
            local = isinstance(try_to_load_from_cache(source, "tokenizer_config.json"), str)
        except ValueError as error:  # no name that the hub could know, such as -1 or a..b
            raise DdcliError(
                f"no tokenizer folder or name {source}; give a folder, a hub name, char, byte or bpe:N"
            ) from error
        if not local:
            _ask_hub(source)
    try:
        # not to be left out: asked nothing, transformers asks stdin whether to run the code of a stranger
        with unheard() if local else nullcontext(), quiet():  # which wonders about models it does not know
            reader = _reader(folder)
            hf = reader.from_pretrained(source, local_files_only=local, trust_remote_code=False)
    except BaseException as error:  # broken files raise whatever the parser of their class raises
        if not (isinstance(error, Exception) or panicked(error)):
            raise
        reason = first_line(error)
        if "trust_remote_code" in str(error):
            reason = "it comes with code of its own, which ddcli never runs"
        elif local and folder.is_dir() and not (folder / "tokenizer.json").exists():
            pieces = next(folder.glob("*.model"), None)
            reason += "; is tokenizer.json missing?"
            if pieces and find_spec("sentencepiece") is None:
                reason = f"it is {pieces.name} alone, which takes a package more: pip install sentencepiece"
        raise DdcliError(f"the tokenizer of {name} cannot be loaded: {reason}") from error
    if not getattr(hf, "is_fast", False):
        raise DdcliError(f"{name} has only a slow tokenizer; ddcli needs a fast one (tokenizer.json)")
    if len(hf) <= len(hf.added_tokens_decoder):  # what a model without tokenizer files is given
        raise DdcliError(f"the tokenizer of {name} has no vocabulary; is tokenizer.json missing?")
    try:
        with unheard():
            hf.backend_tokenizer.decode(hf.backend_tokenizer.encode(PROBE).ids)
    except BaseException as error:  # of text that it has no token for, it may say so
        if panicked(error):
            raise DdcliError(f"the tokenizer of {name} is damaged: its own rules fail: {error}") from None
        if not isinstance(error, Exception):
            raise
    # of this machine, not of the saved tokenizer
    for load_option in ("is_local", "local_files_only", "trust_remote_code"):
        hf.init_kwargs.pop(load_option, None)
    return hf


def _reader(folder: Path) -> Any:
    """Who reads a tokenizer: of one of ours its class, as it takes most of a second to import all others."""
    import transformers

    try:
        said = json.loads(read_small(folder / "tokenizer_config.json"))
    except (OSError, ValueError, RecursionError):
        said = {}
    ours = transformers.PreTrainedTokenizerFast
    own = isinstance(said, dict) and str(said.get("unit")) in UNITS and said.get("tokenizer_class") in PLAIN
    return ours if own and (folder / "tokenizer.json").is_file() else transformers.AutoTokenizer


@contextmanager
def unheard() -> Iterator[None]:
    """Nothing that a library writes to stderr by itself is seen, as Rust does before it raises."""
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _ask_hub(name: str) -> None:
    """DdcliError unless the hub knows the name; answers at once where the loaders retry for a minute."""
    from huggingface_hub.errors import RepositoryNotFoundError

    trouble = unreachable(name)
    if isinstance(trouble, RepositoryNotFoundError):
        raise DdcliError(
            f"no tokenizer {name!r}: no such folder here, none on the hub (or it is private); "
            "give a folder, a hub name, char, byte or bpe:N"
        ) from trouble
    if trouble is not None:
        raise DdcliError(
            f"no tokenizer {name!r}: no such folder here, and the hub cannot be asked "
            f"({first_line(trouble)}); give a folder that has its tokenizer.json, or char, byte or bpe:N"
        ) from trouble


def _complete(hf: Any, source: str) -> list[str]:
    """Give `hf` eos, bos, pad and mask tokens that all differ; the names of those that had to be added."""
    fallbacks = {
        "eos_token": "sep_token",
        "bos_token": "cls_token",
        "pad_token": "pad_token",
        "mask_token": "mask_token",
    }
    size, taken = len(hf), set()
    for role, fallback in fallbacks.items():
        candidates = (getattr(hf, role), getattr(hf, fallback), f"<{role.removesuffix('_token')}>")
        token = next((c for c in candidates if c and c not in taken), None)
        if token is None:
            name, twice = role.removesuffix("_token"), getattr(hf, role)
            raise DdcliError(
                f"the tokenizer of {source} is damaged: {name} and another token are both {twice}"
            )
        if token != getattr(hf, role):
            hf.add_special_tokens({role: token})
        taken.add(token)
    return [hf.backend_tokenizer.id_to_token(id) for id in range(size, len(hf))]

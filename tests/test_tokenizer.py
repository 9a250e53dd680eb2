"""Laws of the tokenizers: no text is lost, none makes a special id, and saving changes nothing."""

import json
import subprocess
import sys
from functools import cache

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import RepositoryNotFoundError
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ddcli import tokenizer as module
from ddcli.errors import DdcliError
from ddcli.tokenizer import Tokenizer, default_tokenizer, make_tokenizer

AWKWARD = (
    "\ufeffA BOM, then\r\nCRLF \t tabs  \n\n trailing blanks  \n"
    "e\u0301 is not \u00e9, \U0001f469\u200d\U0001f4bb, \u2028 \x00 "
    "it's <mask> <unk> <eos><bos> [MASK] </s> <|endoftext|> "
)
OURS = ("char", "byte", "bpe:320")


def silent(line: str) -> None:
    assert "its entries are learnt" in line, f"nothing else was to be logged, but: {line}"


def byte_symbols() -> dict[str, int]:
    return {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


def like_gpt2(folder):
    """No mask, no pad, bos and eos the same, and a length it warns about."""
    vocab = byte_symbols() | {"th": 256, "the": 257}
    backend = Backend(models.BPE(vocab=vocab, merges=[("t", "h"), ("th", "e")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=end, eos_token=end, unk_token=end, model_max_length=8
    ).save_pretrained(folder)
    return folder


def like_bert(folder):
    """Word pieces, ends named cls and sep, and files that ask for truncation and padding."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "mask", "[", "]", "un", "##k"]
    vocab = {word: i for i, word in enumerate(words)}
    backend = Backend(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.enable_truncation(4)
    backend.enable_padding(length=4)
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")},
    ).save_pretrained(folder)
    return folder


def like_t5(folder):
    """A unigram model, whose own pieces include the special tokens; pad is eos."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("<mask>", 0.0)] + [(c, -3.0) for c in "▁ab</s>mk"]
    backend = Backend(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        eos_token="</s>",
        pad_token="</s>",
        mask_token="<mask>",
    ).save_pretrained(folder)
    return folder


FOREIGN = {"gpt2": like_gpt2, "bert": like_bert, "t5": like_t5}


@cache
def made(spec):
    return make_tokenizer(spec, [AWKWARD * 3], lambda line: None)


@pytest.fixture(scope="module", params=[*OURS, *FOREIGN])
def tokenizer(request, tmp_path_factory):
    if request.param in FOREIGN:
        return Tokenizer.load(FOREIGN[request.param](tmp_path_factory.mktemp(request.param)))
    return made(request.param)


@pytest.fixture(scope="module", params=OURS)
def ours(request):
    return made(request.param)


def test_mask_pad_eos_and_bos_exist_and_differ(tokenizer):
    ids = {tokenizer.mask_id, tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id}
    assert len(ids) == 4
    assert ids < set(range(tokenizer.vocab_size))


def test_special_ids_are_all_but_the_end_of_a_document(tokenizer):
    special = tokenizer.special_ids
    assert list(special) == sorted(set(special))
    assert {tokenizer.mask_id, tokenizer.pad_id, tokenizer.bos_id} <= set(special)
    assert tokenizer.eos_id not in special
    assert tokenizer.unk_id in {*special, tokenizer.eos_id, None}
    assert tokenizer.excluded_ids(has_end_of_text=True) == special
    assert tokenizer.excluded_ids(has_end_of_text=False) == tuple(sorted({*special, tokenizer.eos_id}))


def test_literal_names_of_special_tokens_are_text(tokenizer):
    names = tokenizer.pieces([*tokenizer.special_ids, tokenizer.eos_id])
    ids = tokenizer.encode(" ".join(names) + "".join(names))
    forbidden = {*tokenizer.special_ids, tokenizer.eos_id} - {tokenizer.unk_id}
    assert ids.dtype == np.int32
    assert len(ids) > len(names)
    assert not forbidden & set(ids.tolist())


def test_decode_leaves_special_tokens_out(tokenizer):
    ids = tokenizer.encode("the ab").tolist()
    noisy = [tokenizer.bos_id, *ids, tokenizer.mask_id, tokenizer.eos_id, tokenizer.pad_id]
    assert tokenizer.decode(noisy) == tokenizer.decode(ids)
    assert tokenizer.decode_bytes(noisy) == tokenizer.decode(ids).encode()
    assert tokenizer.decode([]) == ""


def test_there_is_a_piece_for_each_id(tokenizer):
    everything = range(tokenizer.vocab_size)
    pieces = tokenizer.pieces(everything)
    assert len(pieces) == tokenizer.vocab_size
    assert all(isinstance(piece, str) and piece for piece in pieces)


def test_a_saved_tokenizer_is_the_same_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path, silent)
    roles = ("vocab_size", "mask_id", "pad_id", "eos_id", "bos_id", "unk_id", "special_ids", "unit")
    assert [getattr(again, role) for role in roles] == [getattr(tokenizer, role) for role in roles]
    assert type(again) is type(tokenizer)
    again.save(tmp_path / "again")
    config = "tokenizer_config.json"
    assert (tmp_path / "again" / config).read_text() == (tmp_path / config).read_text()
    assert "local" not in (tmp_path / config).read_text()
    assert (again.encode(AWKWARD) == tokenizer.encode(AWKWARD)).all()


def test_plain_auto_tokenizer_agrees_with_ours(ours, tmp_path):
    ours.save(tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    text = AWKWARD + "\u4e2d unseen"
    ids = plain(text, add_special_tokens=False).input_ids
    assert ids == ours.encode(text).tolist()
    assert plain.decode(ids, skip_special_tokens=True) == ours.decode(ids)
    assert plain.mask_token_id == ours.mask_id


def test_a_saved_tokenizer_needs_no_ddcli(tmp_path):
    make_tokenizer("char", ["abc"], silent).save(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["unit"] == "character"
    code = (
        "import sys, transformers; t = transformers.AutoTokenizer.from_pretrained(sys.argv[1]);"
        "print(t('cab').input_ids, t.mask_token, 'ddcli' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[2, 0, 1] <mask> False"


@given(st.text())
@settings(deadline=None, max_examples=200)
@pytest.mark.parametrize("spec", ["byte", "bpe:300"])
def test_decoding_inverts_encoding_for_any_text(spec, text):
    tokenizer = made(spec)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()


@given(st.text(st.sampled_from(AWKWARD)))
@settings(deadline=None)
def test_decoding_inverts_encoding_for_the_characters_seen(text):
    tokenizer = made("char")
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_character_vocabulary_is_in_code_point_order_with_the_special_tokens_last():
    tokenizer = make_tokenizer("char", ["cab", "da\n"], silent)
    assert tokenizer.pieces(range(10)) == ["\n", *"abcd", "<eos>", "<unk>", "<bos>", "<pad>", "<mask>"]
    assert tokenizer.encode("xda").tolist() == [tokenizer.unk_id, 4, 1]


def test_a_byte_vocabulary_is_the_bytes_in_order():
    tokenizer = make_tokenizer("byte", [], silent)
    raw = bytes(range(256))
    assert tokenizer.encode(raw).tolist() == list(range(256))
    assert tokenizer.decode_bytes(range(256)) == raw
    assert tokenizer.pieces(range(256, 260)) == ["<eos>", "<bos>", "<pad>", "<mask>"]


def test_a_trained_vocabulary_has_the_size_asked_for_and_bytes_first():
    texts = [f"{i * i} and {i * i * i}" for i in range(3000)]
    tokenizer = make_tokenizer("bpe:400", texts, silent)
    assert tokenizer.vocab_size == 400
    assert {len(tokenizer.decode_bytes([i])) for i in range(256)} == {1}
    assert tokenizer.pieces(range(396, 400)) == ["<eos>", "<bos>", "<pad>", "<mask>"]
    again = make_tokenizer("bpe:400", texts, silent)
    assert again.hf.get_vocab() == tokenizer.hf.get_vocab()


def test_a_text_too_poor_for_the_vocabulary_asked_for_is_told():
    said = []
    tokenizer = make_tokenizer("bpe:5000", ["abababab"], said.append)
    assert f"{tokenizer.vocab_size}" in said[-1]


def test_the_sample_to_learn_from_is_spread_over_the_texts(monkeypatch):
    monkeypatch.setattr(module, "PIECE", 10)
    sample = list(module._spread(["a" * 100, "b" * 100, "c" * 5], 50))
    assert sum(map(len, sample)) <= 50
    assert {"a", "b"} <= set("".join(sample))
    assert list(module._spread(["short", "texts"], 50)) == ["short", "texts"]


@pytest.mark.parametrize("spec", ["bpe:320", "gpt2", "bert"])
def test_cutting_a_long_document_does_not_change_its_ids(spec, tmp_path, monkeypatch):
    text = (AWKWARD + " the  cats\n the cat\n\n  the ") * 20
    tokenizer = (
        Tokenizer.load(FOREIGN[spec](tmp_path)) if spec in FOREIGN else make_tokenizer(spec, [text], silent)
    )
    whole = tokenizer.encode(text)
    for piece in (1, 7, 50):
        monkeypatch.setattr(module, "PIECE", piece)
        monkeypatch.setattr(module, "BATCH", 3)
        tokenizer.__dict__.pop("_cuts", None)
        assert len(list(tokenizer._cut(text))) > 20
        assert (tokenizer.encode(text) == whole).all()


def test_documents_are_encoded_one_by_one(tokenizer):
    documents = ["the", "", "cats ab\nthe", "a" * 5]
    together = tokenizer.encode_documents(iter(documents))
    assert [ids.tolist() for ids in together] == [tokenizer.encode(d).tolist() for d in documents]


def test_added_tokens_are_told_in_one_line(tmp_path):
    said = []
    tokenizer = Tokenizer.load(like_gpt2(tmp_path), said.append)
    (line,) = said
    assert "<bos>, <pad>, <mask>" in line
    assert tokenizer.vocab_size == 258 + 1 + 3
    assert tokenizer.pieces([tokenizer.eos_id]) == ["<|endoftext|>"]


def test_cls_and_sep_serve_as_bos_and_eos(tmp_path):
    tokenizer = Tokenizer.load(like_bert(tmp_path), silent)
    assert tokenizer.pieces([tokenizer.bos_id, tokenizer.eos_id]) == ["[CLS]", "[SEP]"]


def test_nothing_is_truncated_padded_or_warned_about(tmp_path, capfd, caplog):
    bert, gpt2 = Tokenizer.load(like_bert(tmp_path / "b")), Tokenizer.load(like_gpt2(tmp_path / "g"))
    bert.hf("the", padding="max_length", truncation=True, max_length=4)  # leaves the backend truncating
    assert len(bert.encode("the " * 50)) == 50
    assert len(bert.encode("the")) == 1
    assert len(gpt2.encode("the" * 50)) == 50
    assert "longer than" not in capfd.readouterr().err + caplog.text


@pytest.mark.parametrize(
    ("spec", "documents", "said"),
    [
        ("bpe:259", ["x"], "260 or more"),
        ("bpe", ["x"], "try bpe:2048"),
        ("char:9", ["x"], "takes no size"),
        ("char", [b"\xff"], "use --tokenizer byte"),
        ("bpe:300", [b"\xff"], "use --tokenizer byte"),
        ("char", ["".join(map(chr, range(0x10000, 0x1EA61)))], "60,001 different"),
        ("./nowhere", [], "no tokenizer folder ./nowhere"),
        ("a/b/c", [], "no tokenizer folder a/b/c"),
        ("-1", [], "no tokenizer folder or name -1"),
    ],
)
def test_a_spec_that_does_not_do_is_refused_in_one_line(spec, documents, said):
    with pytest.raises(DdcliError, match=said) as error:
        make_tokenizer(spec, documents, silent)
    assert "\n" not in str(error.value)


class GoneError(RepositoryNotFoundError):
    def __init__(self):
        Exception.__init__(self, "404")


@pytest.mark.parametrize(
    ("answer", "said"), [(ConnectionError("no route"), "cannot be asked"), (GoneError(), "none on the hub")]
)
def test_a_name_the_hub_does_not_give_is_refused_in_one_line(answer, said, monkeypatch):
    def model_info(self, name, timeout):
        raise answer

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    with pytest.raises(DdcliError, match=said) as error:
        Tokenizer.load("nobody/nothing")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no tokenizer files"),
        ({"config.json": '{"model_type": "bert"}'}, "no tokenizer files"),
        ({"tokenizer.json": "{broken"}, "cannot be loaded"),
        ({"config.json": '{"model_type": "bert"}', "tokenizer_config.json": "{}"}, "no vocabulary"),
        (
            {
                "config.json": '{"model_type": "ctrl"}',
                "tokenizer_config.json": '{"tokenizer_class": "CTRLTokenizer"}',
                "vocab.json": '{"a": 0, "<unk>": 1}',
                "merges.txt": "#version: 0.2\n",
            },
            "only a slow tokenizer",
        ),
    ],
)
def test_a_folder_without_a_fast_tokenizer_is_refused_in_one_line(files, said, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DdcliError, match=said) as error:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(error.value)


def test_the_default_is_characters_where_there_are_few():
    assert default_tokenizer(["abc"]) == "char"
    assert default_tokenizer(["".join(map(chr, range(299)))]) == "char"
    assert default_tokenizer(["a", "".join(map(chr, range(300)))]) == "bpe:2048"
    assert default_tokenizer([b"\xff"]) == "byte"

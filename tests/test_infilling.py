r"""Laws of infilling: bytes outside gaps survive, escapes, carets, and what each window sees."""

import re
from codecs import BOM_UTF8

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from ddcli.errors import DdcliError, printable
from ddcli.infilling import (
    MAX_GAP,
    Document,
    Gap,
    GapError,
    between,
    cut_matches,
    cut_spans,
    encode,
    line_and_column,
    parse,
    read_lengths,
)
from ddcli.infilling.document import UpTo, exactly
from ddcli.tokenizer import make_tokenizer

MASK, UNK, BOS, EOS = range(4)


class Characters:
    """One token per character of an alphabet; `read` counts the characters that were encoded."""

    mask_id = MASK
    spelling = None

    def __init__(self, alphabet="abcdefgh .\n"):
        self.ids = {character: i for i, character in enumerate(alphabet, start=4)}
        self.read = 0

    def encode(self, text):
        self.read += len(text)
        return np.array([self.ids.get(character, UNK) for character in text], np.int32)


class Utf8:
    """One token per byte."""

    mask_id = MASK

    def encode(self, text):
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32) + 4


class Words:
    """One token per word with the blanks before it, so that a cut inside a word makes another token."""

    mask_id = MASK

    def __init__(self):
        self.ids = {}

    def encode(self, text):
        words = re.findall(r"\s*\w+|\s*[^\w\s]|\s+", text)
        return np.array([self.ids.setdefault(word, len(self.ids) + 4) for word in words], np.int32)


class BytePairs:
    """A byte-level BPE as `tokenizers` builds it."""

    mask_id = MASK

    def __init__(self):
        self.bpe = HfTokenizer(models.BPE())
        self.bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self.bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["[MASK]"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        self.bpe.train_from_iterator([prose(3000).decode()], trainer)

    def encode(self, text):
        return np.array(self.bpe.encode(text, add_special_tokens=False).ids, np.int32)


def prose(words, seed=0):
    """Words of one to twelve letters, some of them not ASCII."""
    rng = np.random.default_rng(seed)
    letters = list("abcdefgéß漢😀")
    return " ".join("".join(rng.choice(letters, rng.integers(1, 13))) for _ in range(words)).encode()


def layout_of(document, tokenizer, length, edges=None):
    return encode(document, tokenizer, length, edges).layout()


def encoded_whole(document, tokenizer):
    """Ids (N,) of the whole document and the place of each gap: what a layout is a part of."""
    ids, places = [], []
    for i, piece in enumerate(document.pieces):
        ids += tokenizer.encode(piece.decode(errors="replace")).tolist()
        if i < len(document.gaps):
            places.append(slice(len(ids), len(ids) + document.gaps[i].lengths[0]))
            ids += [MASK] * document.gaps[i].lengths[0]
    return np.array(ids), places


nasty = st.lists(
    st.one_of(
        st.binary(max_size=8),
        st.sampled_from(
            [
                b"\r\n",
                b"\r",
                b"\0",
                b"\xef\xbb\xbf",
                b"\xff\xfe",
                b"\xc3",
                b" \t ",
                b"\\",
                b"\xe2\x82",
                b"[MASK",
            ]
        ),
    ),
    max_size=6,
).map(b"".join)
# A piece before a gap: it must not end in the backslash that would make text of the marker.
pieces_before = nasty.map(lambda piece: re.sub(rb"\\+\Z", b"", piece).replace(b"[MASK", b"[mASK"))


@given(
    st.lists(
        st.tuples(pieces_before, st.integers(1, 999_999), st.binary(max_size=5)), min_size=1, max_size=5
    ),
    nasty.map(lambda piece: piece.replace(b"[MASK:", b"").replace(b"[MASK]", b"")),
)
@settings(max_examples=200, deadline=None)
def test_bytes_outside_the_gaps_survive(parts, last):
    source = b"".join(piece + b"[MASK:%d]" % tokens for piece, tokens, _ in parts) + last
    document = parse(source)
    assert [gap.lengths for gap in document.gaps] == [exactly(tokens) for _, tokens, _ in parts]
    expected = b"".join(piece + fill for piece, _, fill in parts) + last
    assert document.assemble([fill for _, _, fill in parts]) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf",
        b"\r\n",
        b"\r",
        b"\0",
        b"\xff\xc3",
        b"  \t \n",
        b"[MASKED]",
        b"[MASK ",
        b"[mask]",
        b"\\",
    ],
)
def test_a_fill_leaves_its_surroundings_alone(text):
    assert parse(b"x" + text + b"x[MASK]" + text).assemble([b"\xfe"]) == b"x" + text + b"x\xfe" + text


def test_markers_touch_each_other_and_the_ends():
    document = parse(b"[MASK][MASK:2]\\[MASK]")
    assert document.gaps == (Gap(exactly(1), 0), Gap(exactly(2), 6))
    assert document.pieces == (b"", b"", b"[MASK]")


@given(st.integers(0, 9), st.sampled_from([b"", b"a", b"\xff", b"[MASK]", b"\\[MASK]"]))
def test_an_odd_number_of_backslashes_makes_text_and_loses_one(backslashes, before):
    document = parse(before + b"\\" * backslashes + b"[MASK:5]" + b"[MASK:7]")
    gap = {True: b"\\" * (backslashes - 1) + b"[MASK:5]", False: b"\\" * backslashes + b"#"}[
        backslashes % 2 == 1
    ]
    shown = {b"[MASK]": b"#", b"\\[MASK]": b"[MASK]"}.get(before, before)
    assert document.assemble([b"#"] * len(document.gaps)) == shown + gap + b"#"


def test_text_that_is_no_valid_gap_can_be_kept():
    assert parse(rb"\[MASK:x] \[MASK:\[MASK: [MASK]").assemble([b"#"]) == b"[MASK:x] [MASK:[MASK: #"


@pytest.mark.parametrize(
    ("marker", "source", "tokens"),
    [
        ("<gap>", b"<gap> <gap:12> <gaps> [MASK]", [1, 12]),
        ("<|mask|>", b"<|mask|><|mask|:3>", [1, 3]),
        ("{}", b"{} {:4} {x}", [1, 4]),
        ("(?)", b"(?)(?:2) ?", [1, 2]),
        ("___", b"___ _ ____:5", [1, 1]),
        ("▒", "a▒b▒:3".encode(), [1, 1]),
        ("]", b"a]b:3]", [1, 1]),
        ("\\gap", b"\\gap \\\\gap", [1]),
    ],
)
def test_any_text_can_mark_a_gap(marker, source, tokens):
    assert [gap.lengths for gap in parse(source, marker).gaps] == [exactly(n) for n in tokens]


@pytest.mark.parametrize(
    "count",
    [
        "]",
        "0]",
        "abc]",
        "-3]",
        "1.5]",
        " 3]",
        "٣]",
        "1000000]",
        "9" * 5000 + "]",
        "12",
        "12>",
        "3-2]",
        "3-]",
        "-]",
        "0-3]",
        "3-4-5]",
        "**]",
        "3-*]",
    ],
)
def test_a_bad_count_is_shown_where_it_stands(count):
    with pytest.raises(GapError) as caught:
        parse(f"first [MASK]\r\nthe [MASK:{count}\r\nlast".encode())
    message, line, caret = str(caught.value).split("\n")
    assert message.startswith("line 2, column 5: [MASK:")
    assert "[MASK:12]" in message
    assert line.startswith("the [MASK:")
    assert caret == "    ^"
    assert "␍" not in line
    assert max(len(line), len(message) // 3) <= 72


@given(st.text(max_size=120), st.text(max_size=120))
@settings(max_examples=200, deadline=None)
def test_the_caret_is_under_the_gap_and_no_control_character_is_shown(before, after):
    before = before.rstrip("\\")
    with pytest.raises(GapError) as caught:
        parse((before + "[MASK:!]" + after).encode(errors="surrogatepass"))
    message, line, caret = str(caught.value).split("\n")
    assert message + line == printable(message + line)
    assert len(line) <= 72
    assert line.index("[MASK:!]") <= 36
    column = re.search(r"line (\d+), column (\d+)", message)
    if before.isascii():
        assert caret == " " * line.index("[MASK:!]") + "^"
        assert int(column[1]) == before.count("\n") + 1
        assert int(column[2]) == len(before.rpartition("\n")[2]) + 1


def test_columns_count_characters_and_the_caret_terminal_cells():
    with pytest.raises(GapError, match="line 1, column 10: ") as caught:
        parse("漢字\t\x1b[31m".encode() + b"\xff[MASK:!]")
    assert str(caught.value).split("\n")[1:] == ["漢字␉␛[31m�[MASK:!]", " " * 11 + "^"]


def test_a_long_line_is_cut_to_the_surroundings_of_the_gap():
    with pytest.raises(GapError) as caught:
        parse(b"a" * 5000 + b"[MASK:!]" + b"b" * 5000)
    message, line, caret = str(caught.value).split("\n")
    assert "line 1, column 5001" in message
    assert re.fullmatch(r"…a+\[MASK:!\]b+…", line)
    assert line[caret.index("^") :].startswith("[MASK:!]")


def test_an_empty_marker_is_an_error():
    with pytest.raises(DdcliError, match="mask token is empty"):
        parse(b"text", "")


@pytest.mark.parametrize(
    ("marker", "hint"), [("[MASK]", r"\[MASK:12\] for twelve"), ("___", "write ___ for")]
)
@pytest.mark.parametrize("source", [b"", b"text", b"\\[MASK] \\___"])
def test_a_document_without_gaps_is_an_error_that_says_how_to_write_one(marker, hint, source):
    with pytest.raises(DdcliError, match=hint):
        parse(source, marker)


def test_description():
    assert parse(b"[MASK:12] [MASK:4] [MASK]").describe("character") == "3 gaps, 17 characters"
    assert parse(b"[MASK]").describe("byte") == "1 gap, 1 byte"


def test_one_fill_per_gap():
    with pytest.raises(ValueError, match="zip"):
        parse(b"[MASK] [MASK]").assemble([b"one"])


piece_sizes = st.one_of(st.integers(0, 6), st.integers(0, 300))
documents = st.builds(
    lambda parts, last: Document(
        b"",
        (*(b"abcdefgh"[i % 8 : i % 8 + 1] * size for i, (size, _) in enumerate(parts)), b"." * last),
        tuple(Gap(exactly(tokens), 0) for _, tokens in parts),
    ),
    st.lists(st.tuples(piece_sizes, st.integers(1, 6)), min_size=1, max_size=12),
    piece_sizes,
)
lengths = st.integers(8, 40)
edges = st.sampled_from([None, (BOS, EOS)])


@given(documents, lengths, edges)
@settings(max_examples=200, deadline=None)
def test_each_gap_is_decided_by_one_window_in_order(document, length, edges):
    layout = layout_of(document, Characters(), length, edges)
    assert [i for window in layout.windows for i in window.gaps] == list(range(len(document.gaps)))
    for window in layout.windows:
        own = np.zeros(len(layout.ids), bool)
        for i in window.gaps:
            own[layout.gaps[i]] = True
        assert own.sum() == sum(document.gaps[i].lengths[0] for i in window.gaps)
        np.testing.assert_array_equal(window.own, own[window.span])
        assert window.own.sum() == own.sum()
        assert not (window.own & window.frozen).any()


@given(documents, lengths, edges)
@settings(max_examples=200, deadline=None)
def test_windows_are_full_and_show_both_sides_of_each_gap(document, length, edges):
    layout = layout_of(document, Characters(), length, edges)
    total = sum(map(len, document.pieces)) + sum(gap.lengths[0] for gap in document.gaps) + 2 * bool(edges)
    for window in layout.windows:
        assert (
            len(window.own)
            == len(window.frozen)
            == window.span.stop - window.span.start
            == min(length, total)
        )
        first, last = layout.gaps[window.gaps[0]], layout.gaps[window.gaps[-1]]
        left, right = first.start - window.span.start, window.span.stop - last.stop
        assert left > 0 or first.start == 0
        assert right > 0 or last.stop == len(layout.ids)
        if window.span.start > 0 and window.span.stop < len(layout.ids):
            assert abs(left - right) <= 1


@given(documents, lengths, edges, st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_windows_see_what_earlier_ones_filled_in(document, length, edges, copies):
    layout = layout_of(document, Characters(), length, edges)
    ids = np.tile(layout.ids, (copies, 1))
    rng = np.random.default_rng(0)
    for window in layout.windows:
        seen = ids[:, window.span].copy()
        np.testing.assert_array_equal(seen == MASK, np.tile(~window.frozen, (copies, 1)))
        x0 = rng.integers(100, 1_000_000, seen.shape)
        window.write(ids, x0)
        np.testing.assert_array_equal(ids[:, window.span], np.where(window.own, x0, seen))
    assert not (ids == MASK).any()
    text = layout.ids != MASK
    np.testing.assert_array_equal(ids[:, text], np.tile(layout.ids[text], (copies, 1)))


@pytest.mark.parametrize(
    "tokenizer", [Characters(), Utf8(), Words(), BytePairs()], ids=lambda t: type(t).__name__
)
@pytest.mark.parametrize("length", [8, 32])
def test_a_window_is_the_same_as_if_the_whole_document_were_encoded(tokenizer, length):
    source = (
        prose(700, 1)
        + b" [MASK:2]"
        + prose(20, 2)
        + b"[MASK]"
        + prose(900, 3)
        + b"[MASK:3] \xff"
        + prose(700, 4)
    )
    document = parse(source)
    ids, places = encoded_whole(document, tokenizer)
    layout = layout_of(document, tokenizer, length)
    assert len(layout.ids) < len(ids)
    for window in layout.windows:
        shift = places[window.gaps[0]].start - layout.gaps[window.gaps[0]].start
        span = slice(window.span.start + shift, window.span.stop + shift)
        np.testing.assert_array_equal(layout.ids[window.span], ids[span])


def test_windows_are_full_however_many_bytes_a_token_has():
    class Paragraphs:
        mask_id = MASK

        def encode(self, text):
            return np.full(len(text) // 5000, 4)

    layout = layout_of(parse(b" " * 1_000_000 + b"[MASK]" + b" " * 1_000_000), Paragraphs(), 32)
    (window,) = layout.windows
    assert window.frozen.sum() == 31


def test_near_gaps_are_filled_together_and_far_ones_apart():
    layout = layout_of(
        parse(b"a" * 50 + b"[MASK:3]aaa[MASK:2]" + b"a" * 50 + b"[MASK]" + b"a" * 50), Characters(), 32
    )
    assert [window.gaps for window in layout.windows] == [range(0, 2), range(2, 3)]
    assert [window.span for window in layout.windows] == [slice(38, 70), slice(93, 125)]


def test_a_document_that_fits_is_one_window():
    layout = layout_of(parse(b"[MASK:7]aa[MASK:7]"), Characters(), 16)
    assert [(window.gaps, window.span) for window in layout.windows] == [(range(0, 2), slice(0, 16))]


@pytest.mark.parametrize(
    ("source", "room"),
    [
        (b"[MASK:17]", 16),
        (b"a[MASK:16]", 15),
        (b"[MASK:16]a", 15),
        (b"a[MASK:15]a", 14),
        (b"aaaa[MASK:999999]aaaa", 14),
    ],
)
def test_a_gap_has_room_for_context_or_is_refused(source, room):
    with pytest.raises(GapError, match=rf"reads 16 tokens .* at most {room}, not"):
        layout_of(parse(source), Characters(), 16)
    fitting = re.sub(rb"\d+", b"%d" % room, source)
    assert len(layout_of(parse(fitting), Characters(), 16).windows) == 1


def test_a_gap_that_is_too_long_is_shown_where_it_stands():
    with pytest.raises(GapError, match=r"line 2, column 3: .*\nab\[MASK:99\]cd\n  \^"):
        layout_of(parse(b"[MASK]\nab[MASK:99]cd\n"), Characters(), 16)


def test_big_documents_are_read_only_near_their_gaps():
    tokenizer = Characters()
    document = parse((b"abc def. \n" * 50_000 + b"[MASK:3]") * 10 + b"tail")
    layout = layout_of(document, tokenizer, 128)
    assert tokenizer.read < 50_000
    assert len(layout.windows) == 10
    assert len(document.assemble([b"xyz"] * 10)) == 5_000_034


def test_unknown_characters_are_unk_to_the_network_and_survive_in_the_output():
    document = parse("añ[MASK]b\xe9".encode() + b"\xff")
    assert layout_of(document, Characters(), 8).ids.tolist() == [4, UNK, MASK, 5, UNK, UNK]
    assert document.assemble([b"c"]) == "añcb\xe9".encode() + b"\xff"


def test_bytes_that_are_not_utf8_are_replacement_characters_to_the_network():
    ids = layout_of(parse(b"\xff[MASK]"), Utf8(), 8).ids
    assert bytes((ids[:3] - 4).astype(np.uint8)) == "\N{REPLACEMENT CHARACTER}".encode()


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_record_is_the_document_without_its_line_end(end):
    document = parse(b"ab[MASK:2]" + end)
    assert layout_of(document, Characters(), 8, edges=(BOS, EOS)).ids.tolist() == [BOS, 4, 5, MASK, MASK, EOS]
    assert document.assemble([b"cd"]) == b"abcd" + end


# -- lengths, spans, patterns, two texts -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "lengths"),
    [("12", [12]), ("3-5", [3, 4, 5]), ("7-7", [7]), ("*", [1, 2, 3, 4]), ("999999", [999_999])],
)
def test_a_length_is_a_number_a_range_or_any(said, lengths):
    assert list(read_lengths(said, 4)) == lengths
    assert list(parse(f"a[MASK:{said}]b".encode(), max_gap=4).gaps[0].lengths) == lengths


def test_what_a_marker_leaves_unsaid_may_be_said_beside_it():
    assert [gap.lengths for gap in parse(b"____ ____", "____", range(3, 6)).gaps] == [range(3, 6)] * 2
    assert [g.lengths for g in parse(b"[MASK][MASK:2]", lengths=range(3, 6)).gaps] == [
        range(3, 6),
        exactly(2),
    ]


def test_a_range_is_described_as_one():
    assert parse(b"[MASK:12] [MASK:3-20]").describe("character") == "2 gaps, 15 to 32 characters"


lines_of_text = st.lists(st.text("ab é漢\t\r\0", max_size=6), min_size=1, max_size=5).map("\n".join)


@given(lines_of_text, st.data(), st.binary(max_size=5))
@settings(max_examples=200, deadline=None)
def test_spans_are_lines_and_columns_and_the_rest_is_untouched(text, data, fill):
    able = [at for at in range(len(text) + 1) if text[max(0, at - 1) : at + 1] != "\r\n"]
    ends = sorted(data.draw(st.lists(st.sampled_from(able), min_size=2, max_size=6)))
    places = list(zip(ends[::2], ends[1::2], strict=False))

    def where(at):
        return f"{text.count(chr(10), 0, at) + 1}:{at - text.rfind(chr(10), 0, at)}"

    spans = [f"{where(start)}-{where(end)}" for start, end in places]
    document = cut_spans(text.encode(), data.draw(st.permutations(spans)), range(2, 4))
    assert [gap.replaces.decode() for gap in document.gaps] == [text[start:end] for start, end in places]
    expected, at = b"", 0
    for start, end in places:
        expected += text[at:start].encode() + fill
        at = end
    assert document.assemble([fill] * len(places)) == expected + text[at:].encode()
    assert document.assemble([gap.replaces for gap in document.gaps]) == text.encode()


def test_columns_of_a_span_count_a_byte_that_is_no_text_as_one_character():
    document = cut_spans("é".encode() + b"\xff\xfeab\n", ["1:3-1:5=4"])
    assert document.pieces == ("é".encode() + b"\xff", b"b\n")
    assert document.gaps == (Gap(exactly(4), 3, b"\xfea"),)


def test_a_byte_order_mark_is_in_no_column_and_no_gap():
    source = BOM_UTF8 + b"ab\ncd"
    for document in (
        cut_spans(source, ["1:1-1:2"]),
        cut_matches(source, "^a"),
        parse(BOM_UTF8 + b"[MASK]b\ncd"),
    ):
        assert document.pieces == (BOM_UTF8, b"b\ncd")
        assert line_and_column(document.source, document.gaps[0].offset) == (1, 1)
    assert cut_spans(source, ["1:2-2:2"]).pieces == (BOM_UTF8 + b"a", b"d")
    assert cut_matches(source, "(?s).*").pieces == (BOM_UTF8, b"")


@pytest.mark.parametrize(
    ("spans", "problem"),
    [
        (["1:2"], "not a span; write LINE:COLUMN"),
        (["1:2-1:3=x"], "not a span"),
        (["1:2-1:3="], "not a span"),
        (["0:1-1:1"], "no line 0; the text has lines 1 to 2"),
        (["1:1-3:1"], "no line 3"),
        (["1:1-1:9"], "line 1 has columns 1 to 5, not 9"),
        (["1:1-1:6"], "line 1 has columns 1 to 5, not 6"),
        (["1:0-1:2"], "not 0"),
        (["1:3-1:2"], "ends before it starts"),
        (["1:1-1:4", "1:3-1:5"], "meet at 1:3"),
        (["2:1-2:1", "1:4-2:2"], "meet at 2:1"),
    ],
)
def test_what_is_no_span_is_refused(spans, problem):
    with pytest.raises(DdcliError, match=problem):
        cut_spans(b"abcd\r\nef", spans)


@pytest.mark.parametrize(("source", "last"), [(b"", 1), (b"a", 1), (b"a\n", 1), (b"a\nb", 2), (b"a\n\n", 2)])
def test_a_text_has_as_many_lines_as_an_editor_says(source, last):
    with pytest.raises(DdcliError, match=f"the text has lines 1 to {last}$"):
        cut_spans(source, ["9:1-9:1"])


@given(nasty, st.sampled_from([r"[a-z]", r"\s+", r".", r"\W+", "x*", r"a(b?)", "."]), st.binary(max_size=3))
@settings(max_examples=200, deadline=None)
def test_what_a_pattern_matches_is_replaced_and_nothing_else(source, pattern, fill):
    text = source.removeprefix(BOM_UTF8).decode(errors="surrogateescape")
    group = re.compile(pattern).groups
    spans = [m.span(group) for m in re.finditer(pattern, text, re.M)]
    ends = [[at - (text[max(0, at - 1) : at + 1] == "\r\n") for at in span] for span in spans]
    found = [text[start:end] for start, end in ends if start < end]
    assume(found)
    document = cut_matches(source, pattern)
    assert document.assemble([gap.replaces for gap in document.gaps]) == source
    assert [gap.replaces.decode(errors="surrogateescape") for gap in document.gaps] == found
    assert all(source[g.offset : g.offset + len(g.replaces)] == g.replaces for g in document.gaps)


def test_of_a_pattern_with_groups_the_first_is_replaced():
    document = cut_matches(b"def f(x):\ndef gg(y):\n", r"^def (\w+)\((.)", range(1, 3))
    assert document.pieces == (b"def ", b"(x):\ndef ", b"(y):\n")
    assert [(gap.lengths, gap.replaces) for gap in document.gaps] == [
        (range(1, 3), b"f"),
        (range(1, 3), b"gg"),
    ]


def test_a_pattern_that_is_none_or_matches_nothing_is_refused():
    with pytest.raises(DdcliError, match=r"--regex \(: missing \)"):
        cut_matches(b"abc", "(")
    with pytest.raises(DdcliError, match="--regex z: matches nothing"):
        cut_matches(b"abc", "z")
    assert cut_matches(b"abc", "b(x)?").gaps[0].replaces == b"b"  # a group that took no part is no reason


@pytest.mark.parametrize(
    ("pattern", "filled"),
    [
        ("$", b"a bb#\n#"),
        ("^", b"#a bb\n#"),
        ("b*", b"#a# #\n#"),
        (r"a()", b"a# bb\n"),
        (r"(?=b)", b"a #b#b\n"),
    ],
)
def test_a_match_of_no_text_inserts_where_a_length_is_given(pattern, filled):
    document = cut_matches(b"a bb\n", pattern, exactly(3))
    assert document.assemble([b"#"] * len(document.gaps)) == filled
    if pattern != "b*":
        with pytest.raises(DdcliError, match="matches only places where nothing stands; give --gap"):
            cut_matches(b"a bb\n", pattern)


@pytest.mark.parametrize(
    ("pattern", "filled"), [(" *#.*$", b"a\r\nb#"), ("$", b"a#\r\nb  # c#"), (r"a\s", b"#\r\nb  # c")]
)
def test_a_gap_does_not_part_a_line_end(pattern, filled):
    document = cut_matches(b"a\r\nb  # c", pattern, exactly(3))
    assert document.assemble([b"#"] * len(document.gaps)) == filled


def test_a_gap_is_as_long_as_what_it_replaces_if_nothing_else_is_said():
    document = cut_spans(b"abc.\nd", ["1:2-1:4", "2:1-2:2=7"]).measured(Characters())
    assert [gap.lengths for gap in document.gaps] == [exactly(2), exactly(7)]
    with pytest.raises(GapError, match=r"line 1, column 2: nothing is replaced here"):
        cut_spans(b"abc", ["1:2-1:2"]).measured(Characters())


def test_a_gap_between_two_texts_may_have_any_length():
    document = between(b"ab\n", b"[MASK]")
    assert document.assemble([b"#"]) == b"ab\n#[MASK]"
    assert document.gaps == (Gap(UpTo(MAX_GAP), 3),)


# -- tokens that reach over an edge ------------------------------------------------------------------------

PAIRS = make_tokenizer("bpe:400", [prose(3000).decode()], lambda line: None)


@given(st.binary(max_size=6), st.binary(max_size=6), st.integers(0, 400), st.integers(0, 400))
@settings(max_examples=100, deadline=None)
def test_the_tokens_beside_a_gap_are_given_up_to_it(junk, more, start, end):
    """Those that could be parts of longer ones, as the first and the last token of the gap are then."""
    source = prose(60, 5)
    before, after = source[:start] + junk, more + source[end:]
    encoded = encode(between(before, after, exactly(3)), PAIRS, 64, spelling=PAIRS.spelling)
    cut = encoded.giving_up(encoded.sides)
    layout, (asked, hidden) = cut.layout(), encoded.hiding()
    (place,), (edge,), found = layout.gaps, layout.edges, {token.side: token for token in hidden}
    assert place.stop - place.start == 3
    assert asked.gaps[0].stop - asked.gaps[0].start == 3 + len(found)
    left, right = (PAIRS.encode(text.decode(errors="replace")) for text in (before, after))
    for ids, spelt, fits, position, behind in (
        (left[-1:], edge.before, bytes.startswith, place.start, False),
        (right[:1], edge.after, bytes.endswith, place.stop - 1, True),
    ):
        beside = PAIRS.decode_bytes(ids)
        longer = [bool(beside) and fits(piece, beside) and piece != beside for piece in PAIRS.spelling]
        assert spelt == (beside if any(longer) else b"")
        assert ((0, behind) in found) == (position in layout.allowed) == any(longer)
        if any(longer):
            assert layout.allowed[position].tolist() == longer
            assert found[0, behind].id == ids
    assert len(cut.runs[0]) == len(left) - bool(edge.before)
    assert len(cut.runs[1]) == len(right) - bool(edge.after)
    assert edge.inner(edge.before + b"xyz" + edge.after) == b"xyz"


def test_the_one_token_between_two_gaps_is_given_up_to_the_later():
    encoded = encode(parse(b"ab[MASK]a[MASK]ab"), PAIRS, 64, spelling=PAIRS.spelling)
    layout = encoded.giving_up(encoded.sides).layout()
    assert [edge.after for edge in layout.edges] == [b"", encoded.beside(1).after]
    assert layout.edges[1].before == b"a"


def test_a_gap_of_one_token_reaches_from_edge_to_edge_or_is_two():
    """Of `c[..]t` the one of three tokens that begins with c, ends with t, and is longer than both."""
    pairs = make_tokenizer("bpe:300", ["the cat sat " * 50], lambda line: None)
    encoded = encode(parse(b"see c[MASK]t"), pairs, 16, spelling=pairs.spelling)
    cut = encoded.giving_up(encoded.sides)
    assert list(cut.candidates(0)) == [1]
    ((_, fits),) = cut.layout().allowed.items()
    assert {pairs.spelling[i] for i in np.flatnonzero(fits)} == {b"cat"}
    encoded = encode(parse(b"see c[MASK]e"), pairs, 16, spelling=pairs.spelling)
    assert list(encoded.candidates(0)) == [1]
    assert list(encoded.giving_up(encoded.sides).candidates(0)) == [2]


def test_what_is_replaced_has_the_tokens_that_it_reaches_into():
    """Wherever it is cut: " cat" is one token, and so is a part of it."""
    pairs = make_tokenizer("bpe:300", ["the cat sat " * 50], lambda line: None)
    text = b"see the cat sat\nthe cat"
    assert pairs.pieces(pairs.encode(" cat sat")) == [" cat", " sat"]
    document = cut_spans(text, ["1:9-1:12", "1:12-1:13", "2:6-2:8"]).measured(pairs)
    assert [gap.lengths for gap in document.gaps] == [exactly(1)] * 3
    assert cut_spans(text, ["1:10-1:14"]).measured(pairs).gaps[0].lengths == exactly(2)


def test_a_range_of_lengths_ends_where_the_room_does():
    for source, least in ((b"abcabcabc[MASK:3-99]abcabcabc", 3), (b"abcabcabc[MASK:13-99]abcabcabc", 13)):
        encoded = encode(parse(source), PAIRS, 16, spelling=PAIRS.spelling)
        assert list(encoded.candidates(0)) == list(range(least, max(11, least) + 1))
    with pytest.raises(GapError, match="at most 14, not 15"):
        encoded.layout([15])


def test_a_marker_of_one_repeated_character_takes_the_whole_run():
    document = parse(b"a ____ b ______ c ___ d", "____")
    assert document.pieces == (b"a ", b" b ", b" c ___ d")
    assert parse("a █████ b".encode(), "██").pieces == (b"a ", b" b")
    assert len(parse(b"__", "_").gaps) == 2  # one of a single character is a gap each


def test_of_alternatives_in_groups_the_one_that_took_part_is_replaced():
    document = cut_matches(b"a cat, a dog, a cow", "(cat)|a (dog)|cow")
    assert [gap.replaces for gap in document.gaps] == [b"cat", b"dog", b"cow"]

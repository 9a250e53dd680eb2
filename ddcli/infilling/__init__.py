r"""Gaps in a document: where they are, windows over them, byte-exact assembly.

    document = parse(b"The [MASK:3] sat.\n")
    layout = encode(document, tokenizer, length).layout()
    ids = np.tile(layout.ids, (copies, 1))                            # (B, N)
    for window in layout.windows:
        x0 = network(ids[:, window.span], frozen=window.frozen)       # (B, n)
        window.write(ids, x0)
    for row in ids:
        document.assemble([tokenizer.continuation(row[: gap.start], row[gap]) for gap in layout.gaps])

`parsing` says where the gaps are, `document` holds them, `layout` shows them to a network.
"""

from .document import (
    MAX_GAP,
    Document,
    Gap,
    GapError,
    Lengths,
    UpTo,
    line_and_column,
    line_starts,
    read_lengths,
)
from .layout import FEW, Encoded, Hidden, Layout, Side, Window, encode
from .parsing import between, cut_matches, cut_spans, parse

__all__ = [
    "FEW",
    "MAX_GAP",
    "Document",
    "Encoded",
    "Gap",
    "GapError",
    "Hidden",
    "Layout",
    "Lengths",
    "Side",
    "UpTo",
    "Window",
    "between",
    "cut_matches",
    "cut_spans",
    "encode",
    "line_and_column",
    "line_starts",
    "parse",
    "read_lengths",
]

"""Print how well a model fills gaps in text it has not seen, as a Markdown table.

Of gaps at random places: the bound on their bits per character given both sides, only what stands before,
and only what stands after (the other side hidden); how often the likeliest filling is the very text that
stood there, with the length given and with the length left to the model (1 to `--longest`, by default twice
as much); and how often the model finds that length. The same, under noise that only masks, with the length of
CAL (arXiv:2602.00476): where the masks of the gap are surest at first sight, over how sure they are at that
length in gaps of other lengths (the mean of as many, in place of a curve through it; all lengths are tried).
With --longest a last row has all lengths together, and a line says which share of the exact matches is left
when the length is not given: of those there were, and of those the model itself expects, by ln p of each
length and of its likeliest filling. No rule that knows but this model's beliefs has more to expect.
--words: how often gaps that begin and end where words do, as people cut them, are filled with these.
With --code, how many of its functions still parse with a gap filled by draws, by the likeliest tokens,
and left empty. Each with its standard error: of bits, clustered by gap; of shares, binomial (with two hits
and two misses more, since none or all of a few is not certain).

python benchmarks/infilling.py runs/shakespeare --data held-out.txt --gaps 2 4 8 --count 100 --seed 0
"""

import argparse
import ast
import math
import random
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ddcli
from ddcli.evaluation import ratio
from ddcli.infilling import Document, Gap, between, encode
from ddcli.lengths import ask, best_filling, posterior
from ddcli.likelihood import nelbo
from ddcli.process import Absorbing
from ddcli.randomness import Streams, derive_seed
from ddcli.schedule import stratified
from ddcli.shaping import Shaped, Without
from ddcli.textmodel import TextModel

DRAWS = 16
SIDES = {"both": (), "before": ("after",), "after": ("before",)}  # what is hidden where these are shown


def canvases(model: TextModel, text: str) -> list[np.ndarray]:
    """Held-out text as the network reads it, ids (L,): blocks, or records between their ends."""
    tokenizer = model.tokenizer
    if not model.record_lengths:
        ids = tokenizer.encode(text)
        return [ids[i : i + model.length] for i in range(0, len(ids) - model.length + 1, model.length)]
    records = (tokenizer.encode(line) for line in text.splitlines() if line)
    ends = [tokenizer.bos_id], [tokenizer.eos_id]
    return [np.concatenate([ends[0], ids, ends[1]]) for ids in records if len(ids) + 2 <= model.length]


def drawn(
    model: TextModel, text: str, tokens: int, count: int, seed: int
) -> Iterator[tuple[np.ndarray, int]]:
    """A canvas and where its gap starts, with text on both sides."""
    rng = random.Random(seed)
    edge = 2 if model.record_lengths else 1
    fitting = [ids for ids in canvases(model, text) if len(ids) >= tokens + 2 * edge]
    if not fitting:
        raise SystemExit(f"--data has no text around a gap of {tokens} tokens for a window of {model.length}")
    for _ in range(count):
        ids = rng.choice(fitting)
        yield ids, rng.randint(edge, len(ids) - tokens - edge)


def nats(model: TextModel, ids: np.ndarray, gap: slice, hidden: Sequence[str], seed: int) -> float:
    """The bound on -ln p(gap | what is shown)."""
    place = np.arange(len(ids))
    parts = {"before": place < gap.start, "after": place >= gap.stop}
    running = ~parts["before"] & ~parts["after"]
    special = np.isin(ids, [*model.tokenizer.special_ids, model.tokenizer.eos_id])
    unseen = sum((parts[side] for side in hidden), np.zeros(len(ids), bool)) & ~special
    rng = Streams([derive_seed(seed, "gap", i) for i in range(DRAWS)])
    repeated = [torch.tensor(row, device=model.device).expand(DRAWS, -1) for row in (ids, running, unseen)]
    x0, own, unknown = repeated
    with torch.no_grad():
        found = nelbo(
            model.process,
            model.denoiser,
            x0.long(),
            own,
            stratified(rng.uniform()),
            rng,
            unseen=unknown,
        )
    return found.strict.sum().item() / DRAWS


def document_of(model: TextModel, ids: np.ndarray, gap: slice, most: int) -> tuple[Document, bytes]:
    """A canvas with a gap of 1 to `most` tokens, and what stood there."""
    parts = (ids[: gap.start], ids[gap], ids[gap.stop :])
    before, truth, after = (model.tokenizer.decode_bytes(part) for part in parts)
    return between(before, after, range(1, most + 1)), truth


def expected(model: TextModel, document: Document, seed: int) -> tuple[float, float]:
    """The chance that a filling is the text that stood there, by what the model believes: with the length
    given, that being one drawn from its posterior, and with the length chosen."""
    tokenizer, believed = model.tokenizer, Shaped(model.denoiser, Without([model.tokenizer.eos_id]))
    edges = (model.opening(None), tokenizer.eos_id) if model.record_lengths else None
    asked = ask(model, encode(document, tokenizer, model.length, edges), 0, (), model.record_lengths)
    answer = posterior(model, believed, asked, seed)
    each = []
    for row, n in enumerate(asked.lengths):
        x0 = torch.tensor(asked.ids[row : row + 1], device=model.device)
        place = torch.arange(x0.shape[1], device=model.device)[None] - asked.start
        gap = (place >= 0) & (place < n)
        unseen = (x0 == tokenizer.mask_id) & ~gap
        shown = None if asked.valid is None else torch.tensor(asked.valid[row : row + 1], device=model.device)
        of_row = (x0, gap, unseen, Streams([seed]), answer.log_p[row : row + 1], shown)
        each.append(math.exp(best_filling(model.process, believed, *of_row)[1]))
    return sum(each), max(each)


def sureness(model: TextModel, document: Document, most: int) -> np.ndarray:
    """Phi of CAL, (most,): of a gap of each length, all masks, the mean of their largest probability."""
    tokenizer = model.tokenizer
    edges = (model.opening(None), tokenizer.eos_id) if model.record_lengths else None
    encoded, found = encode(document, tokenizer, model.length, edges), []
    for n in range(1, most + 1):
        layout = encoded.layout([n])
        (window,) = layout.windows
        x = torch.tensor(layout.ids[window.span], device=model.device)[None]
        gap = torch.tensor(~window.frozen, device=model.device)[None]
        with torch.no_grad():
            found.append(model.denoiser(x, gap.double(), gap).max(-1).values.exp().mean().item())
    return np.array(found)


def usual_sureness(model: TextModel, text: str, most: int, count: int, seed: int) -> np.ndarray:
    """B of CAL, (most,): the mean sureness at each length of gaps that have another one."""
    found = list[np.ndarray]()
    for n in range(1, most + 1):
        for ids, start in drawn(model, text, n, math.ceil(count / most), derive_seed(seed, "usual", n)):
            document, _ = document_of(model, ids, slice(start, start + n), most)
            found.append(sureness(model, document, most))
            found[-1][n - 1] = np.nan
    return np.nanmean(found, 0)


def surest(model: TextModel) -> dict[str, Any]:
    """The settings of the likeliest filling."""
    return {"temperature": 0.0, "sampler": "confidence" if isinstance(model.process, Absorbing) else None}


@dataclass
class Hits:
    """Of some gaps."""

    count: int = 0
    exact: np.ndarray = field(default_factory=lambda: np.zeros(3, int))  # length given, chosen, by CAL
    right: np.ndarray = field(default_factory=lambda: np.zeros(2, int))  # the length: chosen, by CAL
    expected: np.ndarray = field(default_factory=lambda: np.zeros(2))  # exact: length given, chosen

    def __add__(self, other: "Hits") -> "Hits":
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return Hits(*(mine + theirs for mine, theirs in pairs))

    def cells(self, masks: bool) -> list[str]:
        hits = (self.exact[0], self.exact[1], self.right[0], self.exact[2], self.right[1])
        shares = [share(int(each), self.count) for each in hits]
        return shares if masks else [*shares[:3], "", ""]


def measured(
    model: TextModel, text: str, tokens: int, count: int, seed: int, longest: int | None
) -> tuple[str, Hits]:
    """A row of the table, and what is in it."""
    masks, most = isinstance(model.process, Absorbing), longest or 2 * tokens
    usual = usual_sureness(model, text, most, count, seed) if masks else None
    bits = {side: np.zeros(count) for side in SIDES}
    characters, hits = np.zeros(count), Hits(count)
    for number, (ids, start) in enumerate(drawn(model, text, tokens, count, seed)):
        gap = slice(start, start + tokens)
        document, truth = document_of(model, ids, gap, most)
        before, behind = document.pieces
        characters[number] = len(truth.decode(errors="replace"))
        for side, hidden in SIDES.items():
            bits[side][number] = nats(model, ids, gap, hidden, derive_seed(seed, number)) / math.log(2)
        lengths = [range(tokens, tokens + 1), range(1, most + 1)]
        if usual is not None:
            n = 1 + int((sureness(model, document, most) / usual).argmax())
            lengths.append(range(n, n + 1))
        for i, able in enumerate(lengths):
            (way,) = model.infill(between(before, behind, able), seed=seed, **surest(model))
            hits.exact[i] += way.gaps[0].content == truth
            if i:
                hits.right[i - 1] += len(way.gaps[0].content) == len(truth)
        if longest:
            hits.expected += expected(model, document, seed)
    each_char = (ratio(bits[side], characters) for side in SIDES)
    figures = (f"{mean:.3f} ± {stderr:.3f}" for mean, stderr in each_char)
    return row(tokens, *figures, *hits.cells(masks)), hits


def cut_at_words(model: TextModel, text: str, count: int, seed: int) -> str:
    """A row of the table of words: one or two of them are replaced, as by `ddcli infill --span`."""
    rng, hits = random.Random(seed), 0
    words = list(re.finditer(r"\w+", text))
    for _ in range(count):
        first = rng.randrange(len(words) // 100, len(words) - len(words) // 100)
        start, end = words[first].start(), words[first + rng.randrange(2)].end()
        before, truth, after = (part.encode() for part in (text[:start], text[start:end], text[end:]))
        document = Document(before + truth + after, (before, after), (Gap(None, len(before), truth),))
        (way,) = model.infill(document, seed=seed, **surest(model))
        hits += way.gaps[0].content == truth
    return row("one or two", share(hits, count))


def functions(files: Sequence[Path]) -> Iterator[str]:
    """The functions of Python files, each as a text that parses on its own."""
    for file in files:
        source = file.read_text(encoding="utf-8", errors="replace")
        try:
            found = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef)]
        except SyntaxError:
            continue
        for node in found:
            text = textwrap.dedent("\n".join(source.splitlines()[node.lineno - 1 : node.end_lineno])) + "\n"
            if parses(text):
                yield text


def parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True


def parsed(model: TextModel, files: Sequence[Path], tokens: int, count: int, seed: int) -> str:
    """A row of the table of functions."""
    rng = random.Random(seed)
    texts = [(text, model.tokenizer.encode(text)) for text in functions(files)]
    fitting = [ids for _, ids in texts if 3 * tokens <= len(ids) <= model.length - 2]
    if not fitting:
        raise SystemExit(f"--code has no function of {3 * tokens} to {model.length - 2} tokens")
    by_chance = surely = empty = 0
    for _ in range(count):
        ids = rng.choice(fitting)
        start = rng.randint(tokens, len(ids) - tokens)
        before, after = (model.tokenizer.decode_bytes(x) for x in (ids[:start], ids[start + tokens :]))
        document, seed = between(before, after, range(tokens, tokens + 1)), rng.getrandbits(31)
        (way,) = model.infill(document, seed=seed)
        by_chance += parses(way.text)
        (way,) = model.infill(document, seed=seed, **surest(model))
        surely += parses(way.text)
        empty += parses((before + after).decode(errors="replace"))
    return row(tokens, share(by_chance, count), share(surely, count), share(empty, count))


def share(hits: int, count: int) -> str:
    """As percent, with the standard error of Agresti and Coull: none or all of a few are not certain."""
    likely = (hits + 2) / (count + 4)
    return f"{100 * hits / count:.0f} ± {100 * math.sqrt(likely * (1 - likely) / (count + 4)):.0f} %"


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def table(head: Sequence[str], rows: Iterator[str]) -> None:
    print(row(*head), row(*("---" for _ in head)), sep="\n")
    for line in rows:
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--data", type=Path, help="a text file the model has not seen")
    parser.add_argument("--code", type=Path, help="a folder of Python files the model has not seen")
    parser.add_argument("--gaps", type=int, nargs="+", default=[2, 4, 8], help="lengths, tokens")
    parser.add_argument("--count", type=int, default=100, help="gaps of each length")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=int, help="of the lengths to choose from, for all gaps")
    parser.add_argument("--words", action="store_true", help="gaps where words begin and end, too")
    parser.add_argument("--precision", default="auto", help="float32 or bf16, as of `ddcli infill`")
    asked = parser.parse_args()
    if not (asked.data or asked.code):
        parser.error("give --data, --code or both")
    model = ddcli.load(asked.run, precision=asked.precision)
    head = ("gap, tokens", "bits/char, both sides", "before only", "after only")
    shares = (
        "exact, length given",
        "exact, length chosen",
        "length right",
        "exact, CAL",
        "CAL's length right",
    )
    rest = (asked.count, asked.seed)
    if asked.data:
        text = asked.data.read_text(encoding="utf-8")
        total = Hits()

        def rows() -> Iterator[str]:
            nonlocal total
            for tokens in asked.gaps:
                line, hits = measured(model, text, tokens, *rest, asked.longest)
                total += hits
                yield line
            if asked.longest:
                yield row("all", "", "", "", *total.cells(isinstance(model.process, Absorbing)))

        table((*head, *shares), rows())
        if asked.longest:
            kept, due = (chosen / given for given, chosen in (total.exact[:2], total.expected))
            given, chosen = total.expected / total.count
            print(
                f"\nexact matches left with the length chosen: {kept:.0%}; by its own beliefs {due:.0%} "
                f"({given:.1%} with the length given, {chosen:.1%} with the one chosen)"
            )
        if asked.words:
            print()
            table(("words", "exact, as many tokens as they had"), iter([cut_at_words(model, text, *rest)]))
    if asked.code:
        print()
        files = sorted(asked.code.rglob("*.py"))
        head = ("gap, tokens", "functions that parse, filled by draws", "by the likeliest", "left empty")
        table(head, (parsed(model, files, tokens, *rest) for tokens in asked.gaps))


if __name__ == "__main__":
    main()

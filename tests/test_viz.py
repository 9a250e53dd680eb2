"""Pictures of noise: what they show is the process itself, and what they embed is inert."""

import functools
import io
import itertools
import json
import operator
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import worlds
from matplotlib.figure import Figure
from PIL import Image
from rich.cells import cell_len
from rich.console import Console
from stories import BOTH, HOSTILE, LONG, TEXT, TIMES, make, perfect_run, tables

from ddcli import TextModel, noise_viz, viz
from ddcli.errors import DdcliError
from ddcli.evaluation import Bound, Clusters
from ddcli.frontier import Point, Quality
from ddcli.generative import Cost
from ddcli.model import SamplerSettings
from ddcli.process import PROCESSES, Interpolating, Vocabulary, flat_text, one_hot, prior
from ddcli.process.matrix import normalised
from ddcli.randomness import Streams
from ddcli.schedule import SCHEDULES
from ddcli.tokenizer import make_tokenizer
from ddcli.viz.figure import _draw as _drawn_figure
from ddcli.viz.layout import cell, wrap
from ddcli.viz.packing import packed
from ddcli.viz.parts import Denoised, State, Track, spread, visible
from ddcli.viz.paths import SHOWN, gaussian_walk, levels, walk
from ddcli.viz.story import existing
from ddcli.viz.tradeoff import ROWS, _curves, _draw, draw_frontier
from ddcli.viz.transition import Redraw, Table, transition

F64 = torch.float64
processes = pytest.mark.parametrize("name", worlds.PER_POSITION)
schedules = pytest.mark.parametrize("schedule", SCHEDULES)


def printed(story, width=80, **options):
    out = io.StringIO()
    viz.show(story, Console(file=out, width=width, **options))
    return out.getvalue()


# -- the story --------------------------------------------------------------------------------------------


@processes
@schedules
def test_the_noise_drawn_matches_its_expectation(name, schedule):
    story, *_ = make(LONG, [name], schedule)
    for row in story.chapters[0].tracks[0].rows:
        share = row.measures.noise
        assert abs(row.noise - share) <= 4.5 * np.sqrt(share * (1 - share) / SHOWN) + 1e-12


@processes
@schedules
def test_a_path_takes_the_steps_of_the_chain(name, schedule):
    """Two steps, s and t: the pairs (x_s, x_t) are as frequent as q(x_s | x_0) q(x_t | x_s) has it."""
    process = worlds.make(name, schedule)
    n, s, t = 40_000, torch.tensor(0.4, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    x0 = torch.zeros(n, dtype=torch.long)
    xs, xt = walk(process, x0, [float(s), float(t)], Streams([3]))
    seen = torch.bincount(5 * xs + xt, minlength=25).reshape(5, 5) / n
    for a in range(5):
        for b in range(5):
            p_s = process.likelihood(torch.tensor(a), torch.zeros_like(s), s)[0].exp()
            expected = p_s * process.likelihood(torch.tensor(b), s, t)[a].exp()
            assert abs(seen[a, b] - expected) <= 4.5 * (expected * (1 - expected) / n).sqrt() + 1e-12


@schedules
def test_a_masked_token_stays_masked(schedule):
    story, tokenizer, _ = make(TEXT, ["absorbing"], schedule)
    rows = np.array([row.tokens for row in story.chapters[0].tracks[0].rows])
    masked = rows == tokenizer.mask_id
    assert (masked[:-1] <= masked[1:]).all()
    assert not masked[0].any()
    assert masked[-1].all()


@pytest.mark.parametrize("name", [n for n in worlds.PER_POSITION if issubclass(PROCESSES[n], Interpolating)])
@schedules
def test_the_closed_form_is_the_general_form(name, schedule):
    process, mass = worlds.make(name, schedule), torch.tensor([0.1, 0.7, 0.6, 0.0, 0.3], dtype=F64)
    for s, t in ((0.0, 0.0), (0.0, 0.4), (0.4, 0.7), (0.0, 1.0), (0.7, 1.0)):
        general, closed = transition.general(process, s, t), transition(process, s, t)
        assert isinstance(general, Table)
        assert isinstance(closed, Redraw)
        for ask in (
            lambda q: q.stays,
            lambda q: q.rows(torch.tensor([2, 4])),
            lambda q: q.law(mass),
            lambda q: q.entropies(),
            lambda q: q.distances(mass),
        ):
            assert ask(closed) == pytest.approx(ask(general), abs=1e-12)


@processes
def test_states_say_what_became_of_each_token(name):
    story, tokenizer, _ = make(TEXT, [name])
    track = story.chapters[0].tracks[0]
    assert tokenizer.decode(track.clean) == TEXT
    for row in track.rows:
        for clean, token, state in zip(track.clean, row.tokens, row.states, strict=True):
            changed = State.MASKED if token == tokenizer.mask_id else State.REPLACED
            assert state == (State.KEPT if token == clean else changed)


def test_denoising_opens_what_changes_and_keeps_what_is_known():
    story, _, noises = make(TEXT, frames=perfect_run)
    absorbing, uniform = (chapter.tracks[1] for chapter in story.chapters)
    assert set(absorbing.rows[0].states) == {State.MASKED}
    assert set(uniform.rows[0].states) == {State.TENTATIVE}
    assert set(absorbing.rows[5].states) == {State.MASKED, State.OPENED, State.KEPT}
    assert set(uniform.rows[5].states) == {State.TENTATIVE, State.REPLACED}
    for track in (absorbing, uniform):
        assert track.rows[-1].tokens == track.clean
        assert set(track.rows[-1].states) <= {State.OPENED, State.REPLACED, State.KEPT}
        assert [row.nfe for row in track.rows] == list(range(11))
    with pytest.raises(DdcliError, match="hybrid"):
        viz.tell(TEXT, _, processes=noises, times=TIMES, seed=0, frames={"hybrid": []})


@processes
def test_a_way_back_ends_at_its_last_tokens(name):
    story, *_ = make(TEXT, [name], frames=perfect_run)
    forward, back = story.chapters[0].tracks
    assert back.rows[-1].tokens == back.clean == forward.clean
    assert set(back.rows[-1].states) <= {State.OPENED, State.REPLACED, State.KEPT}
    assert {State.MASKED, State.TENTATIVE} & set(back.rows[0].states)


@processes
def test_information_falls_from_the_entropy_of_the_text_to_nothing(name):
    story, _, noises = make(TEXT, [name])
    counts = np.unique(list(TEXT), return_counts=True)[1] / len(TEXT)
    bits = [measures.information for measures in story.chapters[0].curves]
    assert bits[0] == pytest.approx(-(counts * np.log2(counts)).sum(), abs=1e-9)
    assert (bits[-1] == pytest.approx(0, abs=1e-9)) == noises[name].forgets
    assert (np.diff(bits) < 0).all()


@processes
def test_information_is_that_of_the_joint_law(name):
    """I(x_0; x_t) and H(x_t) by enumeration of all pairs of symbols."""
    story, tokenizer, noises = make(TEXT, [name])
    counts = torch.bincount(torch.from_numpy(tokenizer.encode(TEXT)).long(), minlength=tokenizer.vocab_size)
    p0 = counts / counts.sum(dtype=F64)
    for measures in story.chapters[0].curves[::5]:
        t = torch.tensor(measures.t, dtype=F64)
        law = noises[name].marginal(one_hot(torch.arange(len(p0)), len(p0)), t).double().exp()
        joint = (p0[:, None] * law).tolist()
        pt = [sum(row[j] for row in joint) for j in range(len(p0))]
        bits = sum(
            p * np.log2(p / (p0[i].item() * pt[j]))
            for i, row in enumerate(joint)
            for j, p in enumerate(row)
            if p > 1e-15
        )
        assert measures.information == pytest.approx(bits, abs=1e-6)
        assert measures.entropy == pytest.approx(-sum(p * np.log2(p) for p in pt if p > 1e-15), abs=1e-6)


def test_the_gaussian_twin_has_the_moments_of_its_signal():
    """z_t ~ N(sqrt(alpha) x, 1 - alpha), and of two times Cov = sqrt(alpha_t / alpha_s) (1 - alpha_s)."""
    x, alphas, n = 1.7, [0.9, 0.5, 0.1, 0.0], 40_000
    path = list(gaussian_walk(torch.full((n,), x, dtype=F64), alphas, Streams([1])))
    for alpha, z in zip(alphas, path, strict=True):
        error = 4.5 * np.sqrt((1 - alpha) / n)
        assert z.mean().item() == pytest.approx(np.sqrt(alpha) * x, abs=error)
        assert z.var().item() == pytest.approx(1 - alpha, abs=4.5 * (1 - alpha) * np.sqrt(2 / n))
    for (a, s), (b, t) in itertools.pairwise(zip(alphas, path, strict=True)):
        covariance = torch.cov(torch.stack([s, t]))[0, 1].item()
        assert covariance == pytest.approx(np.sqrt(b / a) * (1 - a), abs=0.03)


def test_a_twin_goes_with_the_signal_of_its_tokens():
    story, tokenizer, _ = make(LONG, ["absorbing", "hybrid", "steps"], "cosine")
    values = [chapter.tracks[0].values for chapter in story.chapters]
    assert values[2] is None  # there is no signal to go with
    ids = torch.from_numpy(tokenizer.encode(LONG)).long()
    assert [levels(ids).mean().item(), levels(ids).var(correction=0).item()] == pytest.approx([0, 1])
    assert values[0].clean == pytest.approx(levels(ids)[: len(values[0].clean)].tolist())
    assert values[0].rows[0] == values[0].clean  # at t = 0 nothing is noise
    assert len(values[0].rows) == len(TIMES)
    assert values[0].rows[3] == values[1].rows[3]  # alpha_t is the schedule's, whatever tokens turn into
    assert make("aaa", ["absorbing"])[0].chapters[0].tracks[0].values.clean == [0, 0, 0]


@processes
def test_products_come_to_the_limit_that_is_drawn_beside_them(name):
    for vocabulary in ("", "αβγδεζηθικλμνξοπρςστυφχψω"):
        story, _, noises = make(TEXT, [name], vocabulary=vocabulary)
        chain = story.chapters[0].chain
        assert sum(chain.limit) == pytest.approx(1)
        if noises[name].forgets:
            last = np.array(chain.products[-1])
            assert last == pytest.approx(np.tile(np.array(chain.limit)[:, None], len(chain.limit)), abs=1e-8)


def test_absorbing_information_is_the_signal_times_the_entropy():
    story, *_ = make(TEXT, ["absorbing"], "cosine")
    curves = story.chapters[0].curves
    assert [m.information for m in curves] == pytest.approx([m.alpha * curves[0].entropy for m in curves])


@pytest.mark.parametrize("others", ["", "".join(map(chr, range(0x3B1, 0x3B1 + 40)))], ids=["small", "lumped"])
@processes
@schedules
def test_columns_sum_to_one_and_steps_multiply_to_the_product(name, schedule, others):
    story, _, noises = make(TEXT, [name], schedule, vocabulary=others)
    chain = story.chapters[0].chain
    steps, products = np.array(chain.steps), np.array(chain.products)
    assert steps.shape[1] <= 32
    reaches_all = name not in ("absorbing", "stationary")  # which turn into nothing the text does not hold
    assert (chain.lumped > 0) == (reaches_all and others != "")
    assert steps.sum(1) == pytest.approx(1)
    assert products.sum(1) == pytest.approx(1)
    closed = isinstance(noises[name], Interpolating)
    if chain.lumped and not closed:
        return  # the lumped symbols are not alike
    for k, product in enumerate(products):
        expected = functools.reduce(operator.matmul, steps[k::-1])
        assert product == pytest.approx(expected, abs=1e-12 if closed else 1e-10)


@pytest.mark.parametrize("others", ["", "αβγδεζηθικλμνξοπρςστυφχψω"], ids=["small", "lumped"])
@processes
def test_entries_are_the_probabilities_of_the_process(name, others):
    story, _, noises = make(TEXT, [name], vocabulary=others)
    chain, process = story.chapters[0].chain, noises[name]
    states = torch.tensor(chain.states)
    for t, product in zip(chain.times, np.array(chain.products), strict=True):
        found = process.marginal(one_hot(states, process.vocabulary.size), torch.tensor(t, dtype=F64)).exp()
        inside = product[: len(states), : len(states)]
        assert inside == pytest.approx(found[:, states].T.numpy(), abs=1e-9)


@processes
@schedules
def test_the_chain_converges_to_pure_noise(name, schedule):
    story, _, noises = make(TEXT, [name], schedule)
    chapter, process = story.chapters[0], noises[name]
    distances = {measures.t: measures.distance for measures in chapter.curves}
    if process.timesteps is None:
        assert (np.diff(list(distances.values())) < 0).all()
        assert distances[1.0] == pytest.approx(0, abs=1e-8 if schedule == "geometric" else 1e-9)
    pi = prior(process)[chapter.chain.states].exp().numpy()
    own = np.isin(chapter.chain.states, chapter.tracks[0].clean)
    for t, product in zip(chapter.chain.times, np.array(chapter.chain.products), strict=True):
        farthest = np.abs(product - pi[:, None]).sum(0)[own].max() / 2
        assert farthest == pytest.approx(distances[t], abs=1e-9)


@schedules
def test_a_generator_of_uniform_noise_tells_the_story_of_uniform_noise(schedule):
    _, tokenizer, noises = make(TEXT, ["uniform"], schedule)
    vocabulary = noises["uniform"].vocabulary
    count = len(vocabulary.text_ids)
    given = {"matrix": normalised(torch.ones(count, count, dtype=F64))}
    noises["own"] = PROCESSES["generator"].over(vocabulary, SCHEDULES[schedule](), tables=given)
    story = viz.tell(TEXT, tokenizer, processes=noises, times=TIMES, seed=1)
    uniform, own = ([vars(m) for m in chapter.curves] for chapter in story.chapters)
    for a, b in zip(uniform, own, strict=True):
        assert {**a, "weight": a["weight"] or 0} == pytest.approx({**b, "weight": b["weight"] or 0}, abs=1e-8)
    products = (np.array(chapter.chain.products) for chapter in story.chapters)
    assert next(products) == pytest.approx(next(products), abs=1e-9)


def test_steps_are_drawn_at_the_times_they_have():
    story, _, noises = make(TEXT, ["steps"], times=[0.0, 0.01, 0.26, 0.27, 1.0])
    chapter = story.chapters[0]
    assert [row.t for row in chapter.tracks[0].rows] == [0.0, 0.25, 1.0]
    assert [measures.t for measures in chapter.curves] == [k / 20 for k in range(21)]
    assert existing(noises["steps"], [0.5, 0.51]) == [0.5]
    assert chapter.chain.times == [0.25, 1.0]


def test_steps_have_no_signal_and_no_rate():
    story, *_ = make("abc", ["steps"])
    assert {(measures.alpha, measures.weight) for measures in story.chapters[0].curves} == {(None, None)}
    for row in story.chapters[0].tracks[0].rows:
        assert (row.figures()["α"], row.figures()["w"]) == ("–", "–")
    text = _svg_text(viz.FORMATS[".svg"].render(story))
    assert "weight" not in text
    assert "signal" not in text


def test_the_same_seed_tells_the_same_story():
    assert make(TEXT, worlds.PER_POSITION)[0] == make(TEXT, worlds.PER_POSITION)[0]
    assert make(TEXT)[0] != make(TEXT, seed=2)[0]
    hit = [[row.states for row in chapter.tracks[0].rows] for chapter in make(TEXT)[0].chapters]
    for absorbing, uniform in zip(*hit, strict=True):  # the same tokens are hit, but some by themselves
        assert all(a == State.MASKED for a, u in zip(absorbing, uniform, strict=True) if u == State.REPLACED)


def test_a_story_is_plain_json():
    story, *_ = make(TEXT, frames=perfect_run)
    told = json.loads(json.dumps(packed(story), allow_nan=False))
    assert told["chapters"][0]["curves"]["weight"][0] is None  # infinite
    for chapter, kept in zip(told["chapters"], story.chapters, strict=True):
        for flat, track in zip(chapter["tracks"], kept.tracks, strict=True):
            tokens, states = ["?"] * len(track.clean), ["?"] * len(track.clean)
            for changes, row in zip(flat["changes"], track.rows, strict=True):
                for i, token, state in zip(changes[::3], changes[1::3], changes[2::3], strict=True):
                    tokens[i], states[i] = token, state
                assert (tokens, "".join(states)) == (row.tokens, row.states)


@pytest.mark.parametrize("times", [[], [-0.1], [0.5, 1.5], [float("nan")]], ids=str)
def test_times_outside_the_unit_interval_are_refused(times):
    with pytest.raises(DdcliError, match="times run from 0"):
        make(TEXT, times=times)


def test_an_empty_text_is_refused():
    with pytest.raises(DdcliError, match="empty"):
        make("", vocabulary=TEXT)


@pytest.mark.parametrize(
    "piece", ["\x1b[2J", "\r", "\x07", "\u202e", "\u200b", "\u2028", "\x85", "\u0301", ""]
)
def test_nothing_invisible_is_printed(piece):
    assert visible(piece).isprintable()
    assert cell_len(visible(piece)) >= 1


def test_spread_keeps_both_ends():
    assert spread(range(100), 4) == [0, 33, 66, 99]
    assert spread("abc", 4) == ["a", "b", "c"]


# -- the terminal -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [20, 80, 200])
def test_no_line_is_wider_than_the_terminal(width):
    story, *_ = make(TEXT + "東京 " * 30, frames=perfect_run)
    lines = printed(story, width).splitlines()
    texts = [line for line in lines if "░" in line or "^" in line]
    assert len(texts) > 20
    assert max(map(cell_len, texts)) <= max(width, 60)  # the legend alone may be longer


def test_tokens_stay_in_their_column():
    story, *_ = make("東京 to kyo " * 3)
    for chapter in story.chapters:
        for row in chapter.tracks[0].rows:
            for clean, token, state in zip(chapter.tracks[0].clean, row.tokens, row.states, strict=True):
                width = cell_len(story.pieces[clean])
                assert cell_len(cell(story.pieces[token], state, width)) == width


def test_lines_hold_every_token_once():
    widths = [3, 1, 2, 4, 4, 1]
    lines = list(wrap(widths, 5))
    assert [i for line in lines for i in line] == list(range(6))
    assert all(sum(widths[i] for i in line) <= 5 for line in lines)


@pytest.mark.parametrize(
    "options", [{"no_color": True, "force_terminal": True}, {}], ids=["NO_COLOR", "no tty"]
)
def test_without_colour_every_change_is_still_marked(options):
    story, *_ = make(TEXT, times=[0.6])
    absorbing, uniform = (chapter.tracks[0].rows[0] for chapter in story.chapters)
    text = re.sub(r"\x1b\[[\d;]*m", "", printed(story, 200, **options))
    text, twins = re.subn(r"The same noise of numbers.*?\n\n", "", text, flags=re.DOTALL)  # the same again
    assert twins == 1
    legend = 1  # sign of each in the legends
    assert text.count("░") == legend + absorbing.states.count(State.MASKED)
    assert text.count("^") == legend + uniform.states.count(State.REPLACED)


def test_the_terminal_has_matrices_numbers_and_the_order_of_writing():
    story, *_ = make("abab", ["uniform"], frames=perfect_run)
    lines = printed(story).splitlines()
    noise = lines.index("The noise as matrices Q₁:ₜ, from symbol (column) to symbol (row); π: pure noise")
    assert lines[noise + 1].endswith("  π")
    assert re.fullmatch(r"a {2,}██····    .{6}    ▓▓▓▓▓▓    ▓▓", lines[noise + 2])  # of three: 0.93, ..., 1/3
    assert re.fullmatch(r"b {2,}··██··    .{6}    ▓▓▓▓▓▓    ▓▓", lines[noise + 3])
    twin = next(i for i, line in enumerate(lines) if line.startswith("The same noise of numbers"))
    assert lines[twin + 1].strip() == "t = 0.00  abab"
    assert lines[twin + 2].strip() == "z  ▃▇▃▇"  # at -1 and 1, of levels from -2 to 2
    assert sum(line.lstrip().startswith("z  ") for line in lines) == 5
    back = story.chapters[0].tracks[1]
    last = {event.at: event.step for event in back.events}
    order = next(i for i, line in enumerate(lines) if line.startswith("When each token took its last form"))
    assert lines[order + 1].strip() == "abab"
    bars = lines[order + 2].strip()
    order = sorted(last, key=lambda at: last[at])
    assert [bars[at] for at in order] == sorted(bars[at] for at in order)
    narrow = printed(story, 20).splitlines()
    begins = next(i for i, line in enumerate(narrow) if line.startswith("The noise as"))
    assert all(cell_len(line) <= 20 for line in narrow[begins:])
    assert "t = 0.00" in narrow


def test_colour_needs_no_marks():
    story, *_ = make(TEXT, ["uniform"])
    text = printed(story, 200, force_terminal=True, color_system="standard")
    assert "^" not in text
    assert "\x1b[" in text


def test_escapes_in_the_text_never_reach_the_terminal():
    text = printed(make(HOSTILE, times=[0.0])[0])
    assert not set(text) - {"\n"} & set(map(chr, [*range(32), 0x7F, 0x202E, 0x2028]))
    assert "␛[31m" in text.replace("\n", "")


def test_a_long_text_is_cut_and_says_so():
    story, *_ = make("lorem ipsum " * 90_000, times=[0.5])
    track = story.chapters[0].tracks[0]
    assert (track.length, len(track.clean)) == (1_080_000, SHOWN)
    text = printed(story)
    assert len(text.splitlines()) < 60
    assert "of 1,080,000 characters" in text
    assert "1,080,000 characters" in _svg_text(viz.FORMATS[".svg"].render(story))


# -- files ------------------------------------------------------------------------------------------------


def _svg_text(svg: bytes) -> str:
    return " ".join(element.text or "" for element in ElementTree.fromstring(svg).iter())


def test_a_png_shows_something(tmp_path):
    story, *_ = make(TEXT + "東京 $x$ \x1b \u0301", times=[0.0, 0.5, 1.0], frames=perfect_run)
    viz.write(story, tmp_path / "noise.png")
    pixels = np.asarray(Image.open(tmp_path / "noise.png").convert("RGB"))
    assert min(pixels.shape[:2]) > 1000
    assert (pixels != 255).any(-1).mean() > 0.05
    assert [file.name for file in tmp_path.iterdir()] == ["noise.png"]


def test_an_svg_holds_the_text_as_text():
    story, *_ = make("pay $x^2$ for <b>", times=[0.0, 0.5])
    svg = viz.FORMATS[".svg"].render(story)
    text = _svg_text(svg)
    assert all(word in text for word in ("pay", "$x^2$", "<b>", "absorbing noise", "uniform noise"))
    assert svg == viz.FORMATS[".svg"].render(story)


def test_no_words_run_off_the_picture():
    """Of many processes with long names: no legend, no note, and no heading of one matrix over the next."""
    story, *_ = make("To be", ["absorbing", "uniform", "hybrid"], times=[0.0, 0.5])
    chapters = [replace(chapter, name=f"{chapter.name}, of a long name") for chapter in story.chapters * 3]
    figure = _drawn_figure(replace(story, chapters=chapters))
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.texts if text.get_text()]
    assert len(boxes) > 20
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes)
    meeting = [(a, b) for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]
    assert not meeting


def test_masks_are_counted_apart_where_they_are_not_all_the_noise():
    story, *_ = make("abcd", ["absorbing", "uniform", "hybrid"], times=[0.0, 0.5, 1.0])
    absorbing, uniform, hybrid = (chapter.tracks[0].rows for chapter in story.chapters)
    assert {row.measures.masks for row in (*absorbing, *uniform)} == {None}
    assert (hybrid[0].measures.masks, hybrid[-1].measures.masks) == pytest.approx((0, 1))
    assert 0 < hybrid[1].measures.masks < hybrid[1].measures.noise
    assert "masks: the expected share of masks" in " ".join(printed(story).split())
    assert "masks" not in printed(make("abcd", ["absorbing"], times=[0.5])[0])


def test_a_figure_leaves_matplotlib_as_it_was():
    import matplotlib

    before = dict(matplotlib.rcParams)
    viz.FORMATS[".svg"].render(make("abc", ["absorbing"], times=[0.5])[0])
    assert dict(matplotlib.rcParams) == before


def test_a_page_embeds_hostile_text_inertly_and_needs_nothing_else():
    story, *_ = make(HOSTILE, frames=perfect_run)
    page = viz.FORMATS[".html"].render(story).decode()
    data = re.search(r'<script type="application/json" id="story">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    assert not set("<>&\u2028\x1b") & set(data[1])
    pieces = json.loads(data[1])["pieces"]
    assert [pieces[str(id)] for id in story.chapters[0].tracks[0].clean].count("<") == HOSTILE.count("<")
    assert page.count("<script") == 2
    assert "owned" not in page
    assert "default-src 'none'; script-src 'sha256-" in page
    outside = page.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert not re.search(r"https?:|//\w+\.|\bsrc=|href=|url\(|@import|fetch\(|innerHTML", outside)


@pytest.mark.parametrize("suffix", viz.FORMATS)
def test_one_token_before_any_noise_can_be_drawn(suffix):
    assert viz.FORMATS[suffix].render(make("a", times=[0.0])[0])


def test_a_gif_shows_one_time_after_the_other_and_waits_at_the_last():
    story, *_ = make("to be", times=[0.0, 0.5, 1.0], frames=perfect_run)
    gif = Image.open(io.BytesIO(viz.FORMATS[".gif"].render(story)))
    tracks = [track for chapter in story.chapters for track in chapter.tracks]
    assert gif.n_frames == max(len(track.told(99, 99)) for track in tracks) > 3
    pauses, shown = [], set()
    for i in range(gif.n_frames):
        gif.seek(i)
        pauses.append(gif.info["duration"])
        shown.add(gif.convert("RGB").tobytes())
    assert len(shown) == gif.n_frames
    assert pauses[-1] > 4 * max(pauses[:-1])


def test_a_still_picture_of_writing_has_the_steps_in_which_something_changed():
    """And tells what became of each token since the row above, whatever became of it in between."""
    texts = ["____", "____", "a___", "ab__", "_bc_", "_bcd", "_bcd", "aBcd", "aBcd"]
    states = ["mmmm", "mmmm", "ommm", "tomm", "xtom", "mtto", "mttt", "ortt", "kkkk"]
    rows = [
        Denoised(1 - step / 8, 0.0, list(map(ord, text)), state, step, step, text.count("_"), 0)
        for step, (text, state) in enumerate(zip(texts, states, strict=True))
    ]
    track = Track("way back", 4, rows[-1].tokens, rows)
    assert [row.step for row in track.told(4, 99)] == [0, 2, 3, 4, 5, 7, 8]
    assert [row.step for row in track.told(1, 99)] == [0, 2, 4, 7, 8]
    assert [(row.step, row.states) for row in track.told(4, 3)] == [(0, "mmmm"), (4, "moom"), (8, "orko")]


@pytest.mark.parametrize("name", ["noise.jpg", "noise", ".png"])
def test_an_unknown_suffix_names_the_known_ones(tmp_path, name):
    with pytest.raises(DdcliError, match=r"\.gif, \.html, \.png, \.svg"):
        viz.write(make("abc", ["absorbing"], times=[0.5])[0], tmp_path / name)


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(DdcliError, match="no folder"):
        viz.default_times(tmp_path / "nowhere" / "noise.svg")


def test_a_picture_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "noise.html"
    path.write_text("old")
    story, *_ = make("abc", ["absorbing"], times=[0.5])
    monkeypatch.setattr(
        "os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(DdcliError, match="No space left"):
        viz.write(story, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_all_noise_can_be_drawn_together():
    story, *_ = make("abc", worlds.PER_POSITION, "geometric", times=[0.0, 0.5, 1.0])
    text, picture = printed(story), _svg_text(viz.FORMATS[".svg"].render(story))
    assert viz.FORMATS[".html"].render(story)
    for name in worlds.PER_POSITION:
        assert f"{name} noise" in text
        assert f"{name} noise" in picture


# -- by name ----------------------------------------------------------------------------------------------


def test_noise_is_named_with_its_parameter(tmp_path):
    size = len(set(TEXT))
    for kind in ("generator", "steps"):
        (matrix,) = tables(kind, size).values()
        (tmp_path / f"{kind}.json").write_text(json.dumps({kind: matrix.tolist()}))
    files = [f"{kind}:{tmp_path / kind}.json" for kind in ("generator", "steps")]
    names = ["hybrid:0.2", "hybrid:0.8", "band:1", "gaussian", "stationary", "stationary:unigram", *files]
    story = noise_viz(TEXT, processes=names)
    assert [chapter.name for chapter in story.chapters] == names
    few, many, *_ = story.chapters
    assert few.curves[50].entropy < many.curves[50].entropy
    assert [chapter.name for chapter in noise_viz(TEXT).chapters] == list(BOTH)


def test_schedules_are_compared_process_by_process():
    story = noise_viz(TEXT, processes=["absorbing", "uniform"], schedule=["linear", "cosine"], times=[0.5])
    assert [chapter.name for chapter in story.chapters] == [
        "absorbing, linear",
        "absorbing, cosine",
        "uniform, linear",
        "uniform, cosine",
    ]
    for chapter, schedule in zip(story.chapters, ["linear", "cosine"] * 2, strict=True):
        alpha = SCHEDULES[schedule]().alpha(torch.tensor(0.5, dtype=F64)).item()
        assert chapter.tracks[0].rows[0].measures.alpha == pytest.approx(alpha)


def test_stationary_noise_counts_the_text_itself():
    curves = noise_viz(TEXT, processes=["stationary"]).chapters[0].curves
    assert [m.entropy for m in curves] == pytest.approx([curves[0].entropy] * len(curves))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("absorbing", "hybrid", "band", "steps") else pytest.mark.slow)
        for name in worlds.PER_POSITION
    ],
)
def test_the_noise_of_a_model_is_drawn_under_its_own_name(name):
    _, tokenizer, noises = make(TEXT, [name])
    flat = flat_text(noises[name])
    model = TextModel(
        denoiser=lambda xt, t, rows, valid=None: flat.expand(int(rows.sum()), -1),
        process=noises[name],
        tokenizer=tokenizer,
        length=50,
        device=torch.device("cpu"),
    )
    (chapter,) = noise_viz(TEXT, model=model).chapters
    assert [track.title for track in chapter.tracks] == [f"{name} noise", f"a model undoes {name} noise"]
    assert [c.name for c in noise_viz(TEXT, model=model, processes=["band:2", name]).chapters] == [
        "band:2",
        name,
    ]


def test_an_order_of_writing_is_refused_in_one_line():
    tokenizer = make_tokenizer("char", [TEXT], print)
    states = Vocabulary(tokenizer.vocab_size, tokenizer.mask_id, tokenizer.special_ids)
    order = PROCESSES["autoregressive"].over(states, SCHEDULES["linear"]())
    with pytest.raises(DdcliError, match=r"^autoregressive is an order of writing[^\n]*$"):
        viz.tell(TEXT, tokenizer, processes={"autoregressive": order}, times=TIMES, seed=0)
    with pytest.raises(DdcliError, match="autoregressive is an order"):
        noise_viz(TEXT, processes=["uniform", "autoregressive"])


def test_default_times_suit_the_format():
    assert viz.default_times() == pytest.approx(TIMES)
    assert len(viz.default_times("noise.html")) > 60


# -- the picture of a sweep -------------------------------------------------------------------------------


def swept(sampler, steps, nfe, nats, kind="exact"):
    """A point whose two documents of ten tokens cost so much a token."""
    clusters = Clusters(10.0 * np.array(nats or [0, 0]), np.full(2, 10))
    mean, stderr = clusters.mean()
    bound = Bound(mean, mean, mean, stderr, 2, 20)
    quality = Quality(bound, kind, clusters) if nats else None
    return Point(SamplerSettings(sampler=sampler, steps=steps), True, Cost(nfe, nfe / 100), quality, None)


def texts_of(picture):
    return {node.text for node in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")}


def test_a_sweep_is_labelled_where_it_was_measured_and_names_what_has_no_likelihood(tmp_path):
    points = [
        *(swept("ancestral", n, n, [2 + 1 / n, 3 + 1 / n], "bound") for n in (8, 12, 32)),
        *(swept("entropy", n, n, [2 + 2 / n, 3 + 2 / n]) for n in (8, 12, 32)),
        swept("remask", 20, 20, None),
    ]
    draw_frontier(points, tmp_path / "sweep.svg")
    texts = texts_of((tmp_path / "sweep.svg").read_bytes())
    assert {"8", "12", "20", "32", "0.08", "0.12", "0.2", "0.32"} <= texts
    assert {"ancestral (an upper bound)", "entropy", "remask (no likelihood)"} <= texts
    draw_frontier(points[-1:], tmp_path / "none.svg")
    assert any(
        "only a scorer can tell" in (text or "") for text in texts_of((tmp_path / "none.svg").read_bytes())
    )


def test_errors_of_a_sweep_are_of_differences_and_stand_beside_each_other():
    points = [swept("ancestral", 8, 8, [2, 4]), swept("entropy", 8, 8, [2.1, 4.1])]
    figure = Figure()
    axis = figure.subplots()
    (own, _) = ROWS
    found = dict(zip(map(id, points), own.figures(points), strict=True))
    assert [error for _, error in found.values()] == pytest.approx([0, 0], abs=1e-9)
    _draw(axis, found, "nfe", _curves(points))
    places = [bars.lines[0].get_xdata()[0] for bars in axis.containers]
    assert places[0] < 8 < places[1]
    assert places == pytest.approx([8, 8], rel=0.02)

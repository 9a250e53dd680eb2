"""Laws of gaps of unknown length: the posterior is Bayes', checked against brute force."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from chains import OneStream, Oracle, chain, random_hmm
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import PER_POSITION, SYMBOLS, make, world

from ddcli import lengths as weighing
from ddcli.infilling import encode, parse
from ddcli.lengths import REACH, Posterior, best_filling, likeliest, log_likelihood, posterior
from ddcli.model import Model

F64 = torch.float64
# nearly a ring, a to b to c to a, so that the text after a gap tells how long it is
CHAIN = chain(torch.tensor([[0.05, 0.9, 0.05], [0.02, 0.08, 0.9], [0.85, 0.05, 0.1]], dtype=torch.float64))
PAD = BOS = EOS = SYMBOLS  # the one special symbol there is besides the mask
MASK = SYMBOLS + 1
TOKENIZER = SimpleNamespace(
    mask_id=MASK,
    pad_id=PAD,
    eos_id=EOS,
    encode=lambda text: np.array(["abc".index(symbol) for symbol in text], np.int32),
)


@pytest.fixture(autouse=True)
def all_the_evidence(monkeypatch):
    """No length is given up, so that the posterior is Bayes' to the last digit."""
    monkeypatch.setattr(weighing, "GIVEN_UP", 0.0)


class Recorded:
    """The oracle of records: the chain runs between the ends of each, which are given."""

    def __init__(self, oracle):
        self.oracle = oracle

    def __call__(self, xt, t, rows, valid=None):
        found = []
        for i, n in enumerate(valid.sum(-1).tolist()):
            inside = slice(1, n - 1)
            found.append(self.oracle(xt[i : i + 1, inside], t[i : i + 1, inside], rows[i : i + 1, inside]))
        return torch.cat(found)


def model_of(process, source, length, record_lengths=None):
    oracle = Oracle(process, source)
    denoiser = Recorded(oracle) if record_lengths else oracle
    return Model(denoiser, process, TOKENIZER, length, torch.device("cpu"), record_lengths)


def question(model, text, gap=0, chosen=()):
    edges = (BOS, EOS) if model.record_lengths else None
    encoded = encode(parse(text.encode()), TOKENIZER, model.length, edges)
    return weighing.ask(model, encoded, gap, chosen, model.record_lengths)


def ask(model, text, gap=0, chosen=()):
    return posterior(model, model.denoiser, question(model, text, gap, chosen), 1)


def law_of_chain(before, after, lengths):
    """p(n | a text, a gap of n, a text), n as likely as any other: by powers of the chain's matrix."""
    a, b = "abc".index(before[-1]), "abc".index(after[0])
    hops = torch.stack([torch.linalg.matrix_power(CHAIN.move, n + 1)[a, b] for n in lengths])
    return hops / hops.sum()


@pytest.mark.parametrize("name", PER_POSITION)
def test_the_posterior_of_a_length_is_that_of_bayes_rule(name):
    found = ask(model_of(make(name), CHAIN, 24), "abacbb[MASK:2-9]cabca")
    assert list(found.lengths) == list(range(2, 10))
    expected = law_of_chain("abacbb", "cabca", found.lengths)
    # what is unseen says a little where noise leaves a little of the text, as these steps do
    torch.testing.assert_close(found.log_p.exp(), expected, rtol=1e-4 if name == "steps" else 1e-9, atol=1e-9)
    assert (expected - 1 / 8).abs().max() > 0.1  # there is something to find
    assert found.nfe == 8 * 5


@pytest.mark.parametrize("name", ["absorbing", "uniform"])
def test_the_posterior_is_that_of_enumeration_where_the_past_does_not_screen(name):
    """A hidden Markov model: every token of evidence matters. All strings are summed over."""
    source = random_hmm(states=3, symbols=SYMBOLS, seed=4)
    found = ask(model_of(make(name), source, 16), "ab[MASK:1-4]cab")
    before, after = (TOKENIZER.encode(text) for text in ("ab", "cab"))
    joint = []
    for n in found.lengths:
        strings, _ = world(n)
        given = [torch.tensor(ids, dtype=torch.long).expand(len(strings), -1) for ids in (before, after)]
        joint.append(source.log_prob(torch.cat([given[0], strings, given[1]], 1)).logsumexp(0))
    torch.testing.assert_close(found.log_p, torch.stack(joint).log_softmax(0), rtol=1e-6, atol=1e-9)


def enumerated(source, before, after, lengths):
    """ln p(n, filling | the text around) of the likeliest filling of each length, and ln p(n | ...)."""
    given = [TOKENIZER.encode(text) for text in (before, after)]
    each = []
    for n in lengths:
        strings, _ = world(n)
        ends = [torch.tensor(ids, dtype=torch.long).expand(len(strings), -1) for ids in given]
        each.append(source.log_prob(torch.cat([ends[0], strings, ends[1]], 1)))
    total = torch.cat(each).logsumexp(0)
    best = torch.stack([log_p.max() for log_p in each])
    return best - total, torch.stack([log_p.logsumexp(0) for log_p in each]) - total


@pytest.mark.parametrize("name", ["absorbing", "uniform"])
def test_the_length_of_the_likeliest_filling_is_that_of_enumeration(name):
    """Which often is not the likeliest length."""
    source, differ = random_hmm(states=3, symbols=SYMBOLS, seed=4), 0
    for before, after in (("ab", "cab"), ("ca", "bb"), ("bba", "c"), ("c", "aac"), ("aa", "bca")):
        model = model_of(make(name), source, 16)
        asked = question(model, f"{before}[MASK:1-4]{after}")
        answer = posterior(model, model.denoiser, asked, 1)
        found = likeliest(model, model.denoiser, asked, answer, 1)
        joint, alone = enumerated(source, before, after, answer.lengths)
        (length,) = found.lengths
        assert length == answer.lengths[int(joint.argmax())]
        assert found.log_p.item() == pytest.approx(alone[length - 1].item(), abs=1e-6)
        assert found.draw(1.0, torch.tensor(0.5, dtype=F64)) == (length, found.log_p.item())
        assert length <= found.nfe - answer.nfe < sum(answer.lengths)
        differ += int(joint.argmax()) != int(alone.argmax())
    assert differ


@pytest.mark.parametrize("name", ["absorbing", "uniform"])
def test_a_token_that_reaches_into_a_gap_is_evidence_and_fillings_begin_with_it(name):
    """Before the gap stands a, which is given up; of the others only b begins as a does."""
    model = model_of(make(name), CHAIN, 24)
    spelling = [b"x", b"xy", b"z", b"", b""]
    text = encode(parse(b"abacba[MASK:2-5]cab"), TOKENIZER, model.length, spelling=spelling)
    assert text.beside(0).before == b"x"
    asked = weighing.ask(model, text.giving_up(text.sides), 0, ())
    answer = posterior(model, model.denoiser, asked, 1)
    torch.testing.assert_close(answer.log_p.exp(), law_of_chain("b", "cab", [n - 1 for n in range(2, 6)]))
    assert answer.nfe == asked.calls[1] == 4 * (3 + 1)
    found = likeliest(model, model.denoiser, asked, answer, 1)
    best = []
    for n, log_p in zip(answer.lengths, answer.log_p, strict=True):
        strings, _ = world(n)
        around = [torch.tensor(TOKENIZER.encode(part)).long().expand(len(strings), -1) for part in ("b", "c")]
        law = CHAIN.log_prob(torch.cat([around[0], strings, around[1]], 1))[strings[:, 0] == 1]
        best.append(log_p + law.log_softmax(0).max())
    assert list(found.lengths) == [answer.lengths[int(torch.stack(best).argmax())]]


@pytest.mark.parametrize("name", ["absorbing", "uniform", "hybrid"])
def test_a_filling_has_the_likelihood_of_the_text_that_comes_out(name):
    """Along a chain that is nearly a ring the surest tokens make up the likeliest text."""
    model = model_of(make(name), CHAIN, 24)
    ids = torch.tensor([[*TOKENIZER.encode("abc"), MASK, MASK, MASK, *TOKENIZER.encode("ab"), MASK]] * 2)
    place = torch.arange(ids.shape[1])
    gap = torch.stack([(place >= 3) & (place < 6), (place >= 3) & (place < 5)])
    unseen = (ids == MASK) & ~gap
    asked = model.process, model.denoiser, ids, gap, unseen, OneStream(2, 1)
    row, log_p, calls = best_filling(*asked, torch.tensor([-1.0, -9.0], dtype=F64))
    strings, _ = world(3)
    around = [torch.tensor(TOKENIZER.encode(text)).long().expand(len(strings), -1) for text in ("abc", "ab")]
    law = CHAIN.log_prob(torch.cat([around[0], strings, around[1]], 1)).log_softmax(0)
    assert row == 0
    assert log_p == pytest.approx(law.max().item() - 1, abs=1e-6)
    assert calls == 3  # the other row was behind from the start


def test_a_record_is_as_likely_to_be_long_as_in_training():
    counts = {5: 7, 6: 1, 7: 30, 9: 4}
    found = ask(model_of(make("absorbing"), CHAIN, 16, counts), "ab[MASK:1-8]c")
    lengths = [n for n in found.lengths if n + 3 in counts]
    prior = torch.tensor([float(counts[n + 3]) for n in lengths])
    expected = prior * law_of_chain("ab", "c", lengths)
    law = found.log_p.exp()
    torch.testing.assert_close(law[[n - 1 for n in lengths]], (expected / expected.sum()).to(F64))
    assert law.sum().item() == pytest.approx(1)


def test_of_a_long_record_only_text_within_reach_is_asked_about_and_the_rest_unseen():
    model = model_of(make("absorbing"), CHAIN, 64, {n: 1 for n in range(64)})
    found = ask(model, "aab" * 8 + "[MASK:1-5]" + "cab" * 8)
    assert found.nfe == 5 * 2 * REACH
    torch.testing.assert_close(found.log_p.exp(), law_of_chain("b", "c", range(1, 6)))


def test_lengths_of_records_that_never_were_are_as_likely_as_each_other():
    found = ask(model_of(make("absorbing"), CHAIN, 16, {3: 1}), "ab[MASK:2-4]c")
    torch.testing.assert_close(found.log_p.exp(), law_of_chain("ab", "c", range(2, 5)))


def test_gaps_are_resolved_one_after_the_other():
    """The second is asked about with the first as long as it was drawn, and closed to view."""
    model = model_of(make("absorbing"), CHAIN, 32)
    text = "ab[MASK:1-6]cab[MASK:1-6]bba"
    first = ask(model, text)
    torch.testing.assert_close(first.log_p.exp(), law_of_chain("ab", "cab", range(1, 7)))
    assert first.nfe == 6 * 3  # the text behind the second gap is left out
    second = ask(model, text, 1, (4,))
    torch.testing.assert_close(second.log_p.exp(), law_of_chain("cab", "bba", range(1, 7)))


def test_a_gap_with_nothing_behind_it_may_have_any_length():
    model = model_of(make("absorbing"), CHAIN, 32)
    for text in ("ab[MASK:1-6]", "ab[MASK:1-6][MASK:*]c"):
        found = ask(model, text)
        torch.testing.assert_close(found.log_p.exp(), torch.full((6,), 1 / 6, dtype=F64))
        assert found.nfe == 0


def test_a_gap_of_known_length_behind_is_looked_through():
    found = ask(model_of(make("absorbing"), CHAIN, 32), "ab[MASK:1-5][MASK:2]ca")
    torch.testing.assert_close(found.log_p.exp(), law_of_chain("ab", "ca", range(3, 8)))


def test_only_text_within_reach_is_asked_about():
    found = ask(model_of(make("absorbing"), CHAIN, 256), "ab" * 200 + "[MASK:1-5]" + "cab" * 200)
    assert found.nfe == 5 * REACH
    torch.testing.assert_close(found.log_p.exp(), law_of_chain("b", "c", range(1, 6)))


@pytest.mark.parametrize(
    ("said", "lengths"),
    [("3-13", range(3, 14)), ("3-99", range(3, 14)), ("9-14", range(9, 14)), ("*", range(1, 9))],
)
def test_a_gap_has_the_lengths_asked_for_that_leave_context_and_any_half_of_a_window(said, lengths):
    found = ask(model_of(make("absorbing"), CHAIN, 16), f"ab[MASK:{said}]ca")
    assert list(found.lengths) == list(lengths)
    torch.testing.assert_close(found.log_p.exp(), law_of_chain("ab", "ca", lengths))


@pytest.mark.parametrize("said", ["1-8", "*"])
def test_a_record_is_as_long_as_a_window_holds(said):
    found = ask(model_of(make("absorbing"), CHAIN, 11, {9: 3, 3: 1, 10: 7}), f"a[MASK:{said}]")
    assert list(found.lengths) == list(range(1, 9))
    assert found.log_p[[1, 7]].exp().tolist() == pytest.approx([1 / 4, 3 / 4])


def test_gaps_beyond_a_window_do_not_count():
    """As many gaps as anyone likes; each is asked about with what a window shows."""
    model = model_of(make("absorbing"), CHAIN, 16)
    many = "abc[MASK:2]" * 500
    found = ask(model, many + "ab[MASK:1-4]ca" + "[MASK:2]abc" * 500, 500, (2,) * 500)
    torch.testing.assert_close(found.log_p.exp(), law_of_chain("b", "c", range(1, 5)))


@given(st.permutations(range(5)), st.sets(st.integers(0, 4), max_size=4))
@settings(max_examples=25, deadline=None)
def test_the_chain_rule_is_the_same_in_any_order(order, left_out):
    """And the likelihood is the marginal's, the unseen summed over."""
    strings, _ = world(5)
    process, x = make("absorbing"), strings[[17, 120]]
    kept = [i for i in order if i not in left_out]
    unseen = torch.zeros_like(x, dtype=torch.bool)
    unseen[:, list(left_out)] = True
    where = torch.tensor(kept).expand(len(x), -1)
    found, calls = log_likelihood(process, Oracle(process, CHAIN), x, where, unseen, OneStream(len(x)))
    assert calls == len(x) * len(kept)
    log_p = CHAIN.log_prob(strings)
    expected = [log_p[(strings[:, kept] == one[kept]).all(-1)].logsumexp(0) for one in x]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-6, atol=1e-9)


def test_what_giving_up_lengths_costs_is_no_more_than_was_said(monkeypatch):
    """In the mean over texts of the source: a probability is a martingale as evidence comes in."""
    model, texts = model_of(make("absorbing"), CHAIN, 16), CHAIN.draw(12, 14, seed=3).tolist()
    lost = spared = 0.0
    monkeypatch.setattr(weighing, "GIVEN_UP", 0.4)
    for number, ids in enumerate(texts):
        n = 1 + number % 6
        before, after = ("".join("abc"[i] for i in part) for part in (ids[:2], ids[2 + n : 7 + n]))
        asked = question(model, f"{before}[MASK:1-6]{after}")
        found = posterior(model, model.denoiser, asked, 1)
        whole = law_of_chain(before, after, found.lengths)
        kept = found.log_p.exp() > 0
        lost += whole[~kept].sum().item() / len(texts)
        spared += 1 - found.nfe / asked.calls[1]
        torch.testing.assert_close(found.log_p.exp()[kept], whole[kept] / whole[kept].sum())
        assert asked.calls[0] <= found.nfe <= asked.calls[1]
    assert 0 < lost < 0.4
    assert spared > 0


def test_where_one_length_is_left_no_more_is_asked(monkeypatch):
    """A ring all but without slips: of 12 lengths 4 fit, and after a token the others are given up."""
    monkeypatch.setattr(weighing, "GIVEN_UP", 0.01)
    slip = 1e-12
    ring = chain(torch.eye(3, dtype=F64).roll(1, 1) * (1 - 3 * slip) + slip)
    model, behind = model_of(make("absorbing"), ring, 48), "abc" * 5
    found = ask(model, "abcabc[MASK:1-12]" + behind)
    assert found.nfe == 12 + 4 * 14
    assert found.log_p.exp()[2::3].tolist() == pytest.approx([1 / 4] * 4)
    assert ask(model, "abcabc[MASK:1-3]" + behind).nfe == 3


def test_lengths_are_drawn_as_often_as_they_are_likely():
    law = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    found = Posterior(range(4, 7), law.log(), 0)
    grid = (torch.arange(1000, dtype=F64) + 0.5) / 1000
    drawn = [found.draw(1.0, u)[0] for u in grid]
    assert [drawn.count(n) for n in found.lengths] == [500, 300, 200]
    sharp = [found.draw(0.5, u)[0] for u in grid]
    assert sharp.count(4) == pytest.approx(1000 * 0.25 / 0.38, abs=1)

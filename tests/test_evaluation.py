"""Laws of the bound of a text: what it does not depend on, what it is made of, and which text it is of."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import LENGTH, copy_of, edit_json, files, metrics, train_tiny, words
from worlds import SYMBOLS, VOCABULARY, make

import ddcli
from ddcli import cli
from ddcli.data import Blocks
from ddcli.errors import DdcliError
from ddcli.evaluation import estimates, measure
from ddcli.files import sha256
from ddcli.heldout import blocks_of, text_from, validation_text
from ddcli.process import Absorbing
from ddcli.schedule import Cosine, Linear


@pytest.fixture(scope="module")
def model(absorbing_run):
    return ddcli.load(absorbing_run)


@pytest.fixture(scope="module")
def blocks(model):
    return blocks_of(model, [words(30, seed=5), words(9, seed=6)], "words")


def flat(xt, t, rows, valid=None):
    return torch.full((int(rows.sum()), VOCABULARY.size), -math.log(SYMBOLS), dtype=torch.float64)


def blocks_of_zeros(count, length):
    tokens = np.zeros((count, length), np.uint16)
    return Blocks(
        tokens, np.full(len(tokens), tokens.shape[1]), np.array([tokens.size]), None, tokens.size, tokens.size
    )


# -- what it does not depend on ---------------------------------------------------------------------------


def test_a_bound_and_its_curves_do_not_depend_on_the_size_of_a_batch(model, blocks):
    found = [measure(model, blocks, draws=3, batch_size=size) for size in (1, 5, 64)]
    for other in found[1:]:
        assert other.bound() == found[0].bound()
        assert other.time == pytest.approx(found[0].time, rel=1e-12)
        assert other.masks == pytest.approx(found[0].masks, rel=1e-12)


def test_a_batch_of_a_large_vocabulary_is_as_small_as_memory_asks(monkeypatch):
    asked = []

    def heard(xt, t, rows, valid=None):
        asked.append(len(xt))
        return flat(xt, t, rows)

    process, some = make("absorbing"), blocks_of_zeros(4, 6)
    monkeypatch.setattr("ddcli.evaluation.AT_ONCE", 3 * 6 * VOCABULARY.size)
    estimates(heard, process, some, draws=1)
    monkeypatch.setattr("ddcli.evaluation.AT_ONCE", 1)
    estimates(heard, process, some, draws=1)
    assert asked == [3, 1, 1, 1, 1, 1]


def test_a_bound_does_not_depend_on_the_number_of_cores(model, blocks):
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(measure(model, blocks, draws=2, sequences=6).bound().nats_per_token)
    finally:
        torch.set_num_threads(before)
    assert found[0] == pytest.approx(found[1], rel=1e-6)


# -- what it is made of -----------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["linear", "cosine", "polynomial"])
def test_a_flat_belief_costs_a_masked_token_the_logarithm_of_the_alphabet_at_any_share(schedule):
    length = 20
    found = estimates(flat, make("absorbing", schedule), blocks_of_zeros(length, length), draws=3)
    assert [share.nats for share in found.by_masks()] == pytest.approx([math.log(SYMBOLS)] * 10)
    assert [share.share for share in found.by_masks()] == pytest.approx([0.1] * 10)


@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
def test_the_cost_of_a_flat_belief_comes_as_fast_as_the_schedule_loses_the_text(schedule):
    """Stratified counts fall on each number of masks equally often, so this holds to the last digits."""
    length = 20
    process = Absorbing.over(VOCABULARY, schedule)
    found = estimates(flat, process, blocks_of_zeros(length, length), draws=2)
    lost = schedule.lost(torch.linspace(0, 1, 11, dtype=torch.float64)).diff()
    assert [share.share for share in found.by_time()] == pytest.approx(lost.tolist())


@pytest.mark.parametrize("name", ["absorbing", "uniform", "hybrid", "generator", "steps"])
def test_the_parts_of_a_bound_make_up_the_whole(name):
    process = make(name, "geometric" if name == "generator" else "linear")

    def unsure(xt, t, rows, valid=None):
        belief = torch.tensor([0.5, 0.3, 0.2, 1e-30, 1e-30], dtype=torch.float64)
        return belief.log().clamp(min=-1e5).expand(int(rows.sum()), -1)

    found = estimates(unsure, process, blocks_of_zeros(8, 6), draws=4)
    total = found.strict.sum()
    assert sum(share.share for share in found.by_time()) + found.prior / total == pytest.approx(1)
    drawn = [share.nats for share in found.by_time() if math.isfinite(share.nats)]
    per_token = sum(drawn) / 10 + found.prior / 48
    assert per_token == pytest.approx(found.bound().nats_per_token)


def test_a_time_at_which_nothing_was_drawn_has_no_figure():
    shares = estimates(flat, make("uniform"), blocks_of_zeros(1, 6), draws=1).by_time()
    assert sum(math.isfinite(share.nats) for share in shares) == 1
    assert sum(share.share for share in shares) == pytest.approx(1)


def test_bits_are_of_a_character_or_of_a_byte(tmp_path):
    text = "äöü" * 200 + "\n"
    path = tmp_path / "umlauts.txt"
    path.write_text(text * 3, encoding="utf-8")
    train_tiny(tmp_path / "run", path, train__steps=2, validation__every=0)
    found = ddcli.load(tmp_path / "run").score(text)
    assert found.bits_per_char / found.bits_per_byte == pytest.approx(len(text.encode()) / len(text))
    assert found.bits_per_char == pytest.approx(found.nats_per_token / math.log(2))


def test_symbols_the_vocabulary_lacks_are_neither_predicted_nor_counted(model, tmp_path):
    text = words(8, seed=3)
    path = tmp_path / "strange.txt"
    path.write_text(text.replace("c", "\N{SNOWMAN}"), encoding="utf-8")
    found = text_from(model, str(path))
    lacking = text.count("c")
    assert found.unknown == lacking
    assert found.blocks.predicted == found.blocks.characters == found.blocks.utf8_bytes == len(text) - lacking
    assert math.isfinite(measure(model, found.blocks, draws=1).bound().nats_per_token)


def test_a_vocabulary_without_an_unknown_symbol_predicts_all(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(words(60))
    for spec in ("byte", "bpe:300"):
        run = tmp_path / spec.replace(":", "")
        train_tiny(run, path, train__steps=2, validation__every=0, data__tokenizer=spec)
        found = ddcli.load(run).score("snow \N{SNOWMAN}" * 9)
        assert found.bits_per_char / found.bits_per_byte == pytest.approx(8 / 6)


def test_errors_are_clustered_by_document(model):
    documents = [words(12, seed=seed) for seed in range(5)]
    several = measure(model, blocks_of(model, documents, "words"), draws=1).bound()
    one = blocks_of(model, ["".join(documents)], "words")
    assert several.clusters == 5
    assert measure(model, one, draws=1).bound().clusters == len(one)


def test_a_likelihood_holds_no_chance(tmp_path, text_file):
    for name, changes in (("order", {"process__name": "autoregressive"}), ("one", {"model__block": 1})):
        train_tiny(tmp_path / name, text_file, train__steps=2, validation__every=0, **changes)
        found = ddcli.evaluate(tmp_path / name, limit=3)
        assert found.estimates.exact
        assert found.estimates.draws == 1
        other = measure(found.model, found.text.blocks, sequences=3, draws=1, seed=99)
        assert other.strict == pytest.approx(found.estimates.strict, rel=1e-6)
        assert "no bound" in found.record()["bound"]["convention"]
    ends_early = {"model__block": 1, "process__schedule": "geometric:0.5"}  # and sampling begins from a guess
    train_tiny(tmp_path / "early", text_file, train__steps=2, validation__every=0, **ends_early)
    assert not ddcli.evaluate(tmp_path / "early", limit=3).estimates.exact


# -- which text it is of ----------------------------------------------------------------------------------


def test_by_default_a_run_is_measured_on_what_it_was_validated_on(absorbing_run, text_file):
    reported = metrics(absorbing_run)[-1]
    found = ddcli.evaluate(absorbing_run, limit=4, draws=2)
    assert found.bound.nats_per_token == pytest.approx(reported["bound_nats_per_token"], rel=1e-4)
    assert found.bound.stderr == pytest.approx(reported["bound_stderr"], rel=1e-3)
    assert found.text.name == f"the last 5% of {text_file}"
    assert found.text.sha256 == hashlib.sha256(text_file.read_bytes()).hexdigest()


def test_a_text_scores_as_the_file_that_holds_it(model, tmp_path):
    text = words(9, seed=4)
    (tmp_path / "text.txt").write_text(text)
    found = ddcli.evaluate(model, str(tmp_path / "text.txt"))
    assert model.score(text) == found.bound
    assert found.text.sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_a_model_of_records_is_measured_by_records(records_run, tmp_path):
    (tmp_path / "names.csv").write_text("who\nabba\nhed\nabcdefghabcdefghabcdefgh\n")
    (tmp_path / "names.txt").write_text("abba\nhed\n")
    table = ddcli.evaluate(records_run, str(tmp_path / "names.csv"), text_column="who")
    lines = ddcli.evaluate(records_run, str(tmp_path / "names.txt"))
    assert table.bound == lines.bound
    assert table.bound.tokens == 7
    assert (table.bound.clusters, table.text.blocks.left_out) == (2, 1)
    assert ddcli.load(records_run).score("abba").tokens == 4


def test_a_model_of_labels_is_measured_with_them(tmp_path):
    rows = "".join(f"{text},{label}\n" for text, label in [("abba", "x"), ("hedge", "y")] * 40)
    path = tmp_path / "names.csv"
    path.write_text("text,kind\n" + rows)
    run = tmp_path / "run"
    settings = {"data__lines": True, "data__length": None, "data__label_column": "kind"}
    train_tiny(run, path, train__steps=200, validation__every=0, **settings)
    labelled = ddcli.evaluate(run, str(path), label_column="kind", draws=2).bound
    plain = ddcli.evaluate(run, str(path), draws=2).bound
    assert labelled.nats_per_token < plain.nats_per_token
    assert ddcli.evaluate(run).text.blocks.tokens[0, 0] in ddcli.load(run).tokenizer.label_ids.values()


def test_of_two_sources_the_one_that_is_validated_on_is_named(tmp_path):
    for name in ("train", "valid"):
        (tmp_path / name).write_text(words(30, seed=len(name) + (name == "valid")))
    train_tiny(
        tmp_path / "run",
        tmp_path / "train",
        train__steps=2,
        validation__every=0,
        data__valid=str(tmp_path / "valid"),
    )
    found = validation_text(ddcli.load(tmp_path / "run"), print)
    assert (found.name, found.sha256) == (str(tmp_path / "valid"), sha256(tmp_path / "valid"))


def test_data_named_from_where_training_began_is_found_from_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(words(60))
    monkeypatch.chdir(tmp_path)
    train_tiny(Path("runs/own"), "text.txt", train__steps=2, validation__every=0)
    found = validation_text(ddcli.load("runs/own"), print)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert validation_text(ddcli.load("../runs/own"), print).name == found.name == "the last 5% of text.txt"


def test_the_same_data_is_looked_for_behind_another_of_its_name(tmp_path, monkeypatch):
    for name, seed in (("text.txt", 0), ("runs/text.txt", 1), ("elsewhere/text.txt", 2)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(words(60, seed))
    monkeypatch.chdir(tmp_path)
    train_tiny(Path("runs/own"), "text*", train__steps=2, validation__every=0)
    monkeypatch.chdir("elsewhere")
    model = ddcli.load("../runs/own")
    found = validation_text(model, print)
    assert found.sha256 == model.about["data"]["sha256"]
    (tmp_path / "text.txt").write_text(words(60, 3))
    with pytest.raises(DdcliError, match=r"is not what \.\./runs/own was trained on any more"):
        validation_text(model, print)


def test_data_that_has_changed_or_gone_is_not_measured(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(words(60))
    train_tiny(tmp_path / "run", path, train__steps=2, validation__every=0)
    model = ddcli.load(tmp_path / "run")
    assert validation_text(model, print).blocks.predicted
    path.write_text(words(61))
    with pytest.raises(DdcliError, match=r"is not what .*run was trained on any more; give a text"):
        validation_text(model, print)
    path.unlink()
    with pytest.raises(DdcliError, match=r"no such file or folder: .*; or give a text with --data"):
        validation_text(model, print)


# -- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def run(capfd):
    def command(*arguments):
        code = cli.main(["eval", *map(str, arguments)])
        return code, *capfd.readouterr()

    return command


def test_the_answer_is_a_table_of_figures_that_name_their_text_and_convention(run, absorbing_run):
    code, out, err = run(absorbing_run, "--limit", 3, "--draws", 2)
    assert (code, err) == (0, "")
    count = len(validation_text(ddcli.load(absorbing_run), print).blocks)
    assert f"3 of {count} blocks of up to {LENGTH} characters measured" in out
    assert "no context is carried over" in out
    assert "strict: an upper bound" in out
    assert "as papers on continuous time report it" in out
    assert "bits/byte" in out
    assert "0.9 to 1.0" in out


def test_curves_are_told_where_nothing_else_is_asked_for_or_they_are(run, absorbing_run):
    asked = ["--limit", 1, "--draws", 1, "--order", "entropy", "--quiet"]
    for arguments, told in ((asked[:4], True), (asked, False), ([*asked, "--curve"], True)):
        _, out, _ = run(absorbing_run, *arguments)
        assert ("share masked" in out) == ("unit of time" in out) == told
    assert out.index("bound: strict") < out.index("order entropy") < out.index("unit of time")
    _, out, _ = run(absorbing_run, *asked, "--json")
    assert len(json.loads(out)["bound"]["by_time"]) == 10


def test_what_there_is_one_of_is_called_so(run, records_run):
    code, out, err = run(records_run, "--limit", 1, "--draws", 1, "--order", "entropy")
    assert code == 0
    assert "replaying 1 record\n" in err
    assert "1 noising of each; no standard error of 1 cluster" in out
    assert "\n  1 record, " in out
    assert "paired on 1 record: too few to tell" in out


def test_what_is_not_known_is_not_printed(run, uniform_run):
    code, out, err = run(uniform_run, "--limit", 1, "--draws", 1)
    assert (code, err) == (0, "")
    assert sum(line.split()[3:] == ["-", "-"] for line in out.splitlines()) == 9
    assert "nan" not in out


def test_json_tells_what_it_takes_to_measure_again(run, absorbing_run):
    code, out, err = run(absorbing_run, "--limit", 3, "--draws", 2, "--seed", 5, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["model"]["weights_sha256"] == sha256(absorbing_run / "model.safetensors")
    assert found["model"]["config_sha256"] == sha256(absorbing_run / "config.json")
    assert found["versions"]["ddcli"] == ddcli.__version__
    assert found["versions"]["torch"] == torch.__version__
    assert (found["seed"], found["bound"]["draws"], found["data"]["blocks_measured"]) == (5, 2, 3)
    assert found["data"]["context_carried_over"] == 0
    assert found["settings"]["limit"] == 3
    assert found["settings"]["sampling"]["sampler"] == "ancestral"
    assert len(found["bound"]["by_time"]) == len(found["bound"]["by_masked_share"]) == 10
    again = ddcli.evaluate(absorbing_run, limit=3, draws=2, seed=5)
    assert json.loads(json.dumps(again.record())) == found


def test_measuring_writes_nothing(run, absorbing_run):
    before = files(absorbing_run)
    run(absorbing_run, "--limit", 2)
    assert files(absorbing_run) == before


REFUSED = {
    "no such data": (["--data", "missing.txt"], "no such file or folder: missing.txt"),
    "nothing known": (["--data", "strange.txt"], "no symbol of strange.txt is in the model's vocabulary"),
    "no order": (["--order", "sideways"], "unknown sampler 'sideways'"),
    "no order of its own": (["--order", "remask"], "--order: what remask opens depends on the tokens"),
    "no numbers": (["--temperatures", "hot"], "--temperatures takes numbers"),
    "a pace of nothing": (["--tokens-per-call", "2"], "give --order"),
    "temperatures of nothing": (["--temperatures", "0.5"], "give --generative"),
    "a scorer's file of nothing": (["--generative-gguf", "x.gguf"], "--generative-gguf says nothing alone"),
    "samples of nothing": (["--samples", "3"], "--samples says nothing alone; give --generative"),
    "a length of nothing": (["--length", "3"], "give --generative or --sweep, or leave it out"),
    "a column of nothing": (["--text-column", "x"], "--text-column says nothing alone; give --data"),
    "a label of nothing": (["--label-column", "x"], "--label-column says nothing alone; give --data"),
    "a split of nothing": (["--split", "x"], "--split says nothing alone; give --data"),
    "a sweep without a prompt": (
        ["--sweep", "steps=2 guidance=1,2"],
        "samples by ancestral, 2 steps, guidance 2: guidance",
    ),
    "a sweep of too few steps": (
        ["--sweep", "steps=5,3 sampler=remask:loop"],
        "needs at least 4 steps (of each block), not 3",
    ),
    "a sweep too long": (
        ["--sweep", "steps=2", "--length", "99"],
        f"writes 1 to {LENGTH} characters at once",
    ),
    "samples too long": (["--generative", "empty", "--length", "99"], f"writes 1 to {LENGTH} characters"),
    "no labels": (["--data", "strange.txt", "--label-column", "x"], "trained without labels"),
    "no scorer": (["--generative", "empty"], "empty is no causal language model"),
    "no folder": (["--generative", "./missing"], "./missing is no folder"),
    "a picture of nothing": (["-o", "x.png"], "give --sweep"),
    "no picture": (["-o", "x.gif", "--sweep", "steps=2"], "unknown picture format '.gif'"),
    "nothing to save": (["--save"], "give --sweep"),
    "no setting": (["--sweep", "stops=2"], "did you mean 'steps'"),
    "no value": (["--sweep", "steps="], "--sweep takes settings"),
    "no number": (["--sweep", "steps=few"], "--steps few"),
    "twice": (["--sweep", "steps=2 steps=3"], "steps is swept twice"),
    "empty": (["--sweep", ""], "--sweep is empty"),
    "no sampler": (["--sweep", "sampler=magic"], "unknown sampler 'magic'"),
    "no budget": (["--budget", "fast", "--order", "entropy"], "holds no budgets"),
    "a budget of nothing": (
        ["--budget", "fast"],
        "--budget says nothing alone; give --order, --sweep or --gen",
    ),
    "settings of nothing": (["--top-p", "0.5"], "--top-p says nothing alone; give --order, --sweep or --gen"),
    "a temperature among several": (
        ["--temperature", "0.5", "--generative", "empty"],
        "--temperature says nothing alone; give --order or --sweep, or leave it out",
    ),
    "seconds of nothing": (
        ["--within", "1", "--sweep", "steps=2"],
        "--within says nothing alone; give --save",
    ),
    "too few seconds": (
        ["--within", "1e-9", "--sweep", "steps=2,4", "--save"],
        "the fastest, ancestral, ",
    ),
    "a pace of its own": (
        ["--order", "threshold:0.9", "--tokens-per-call", "2"],
        "--order: threshold:0.9 goes at a pace of its own; leave --tokens-per-call out",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_measured_is_refused_in_one_line(run, absorbing_run, tmp_path, monkeypatch, name):
    arguments, message = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "strange.txt").write_text("\N{SNOWMAN}" * 40, encoding="utf-8")
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("ddcli.report.measure", lambda *_, **__: pytest.fail("it was measured before"))
    code, out, err = run(absorbing_run, "--limit", 2, "--quiet", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_why_a_text_or_an_order_has_no_figure_is_told(run, records_run, uniform_run, tmp_path):
    (tmp_path / "long.txt").write_text("a" * 99 + "\n\N{SNOWMAN}\n", encoding="utf-8")
    code, _, err = run(records_run, "--data", tmp_path / "long.txt")
    assert code == 2
    assert "1 record of " in err
    assert " too long for the model, which reads " in err
    code, _, err = run(uniform_run, "--limit", 1, "--order", "confidence")
    assert code == 2
    assert "--order: confidence can be replayed under absorbing noise alone" in err


# -- budgets ----------------------------------------------------------------------------------------------


def test_a_budget_is_a_set_of_settings(absorbing_run, tmp_path):
    run = copy_of(absorbing_run, tmp_path)
    edit_json(
        run / "generation_config.json", budgets={"fast": {"steps": 3, "nats_per_token": 1.5}}, top_p=0.9
    )
    model = ddcli.load(run)
    fast = model.choose(budget="fast")
    assert (fast.steps, fast.sampler, fast.top_p) == (3, "ancestral", 0.9)
    assert model.choose(budget="fast", steps=7).steps == 7
    assert model.sample(seed=1, budget="fast")[0].nfe <= 3
    assert model.sample(seed=1, budget="fast")[0] == model.sample(seed=1, steps=3)[0]
    assert model.infill("a [MASK:3] b", seed=1, budget="fast") == model.infill(
        "a [MASK:3] b", seed=1, steps=3
    )


def test_a_budget_that_was_never_measured_says_how_to(absorbing_run):
    model = ddcli.load(absorbing_run)
    with pytest.raises(DdcliError, match=r"holds no budgets; measure them with `ddcli eval .* --save`"):
        model.sample(budget="fast")
    with pytest.raises(DdcliError, match="unknown budget 'cheap'"):
        model.sample(budget="cheap")


def test_budgets_that_are_none_are_damage(absorbing_run, tmp_path):
    run = copy_of(absorbing_run, tmp_path)
    edit_json(run / "generation_config.json", budgets=[3])
    with pytest.raises(DdcliError, match="budgets is not a JSON object"):
        ddcli.load(run)

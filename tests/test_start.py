"""Training that starts from what exists: a masked language model of another make, or a run."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from tiny import (
    OURS,
    SETTINGS,
    Heard,
    assert_same_run,
    command,
    copy_of,
    edit_json,
    files,
    logits_at,
    metrics,
    start_config,
    stop_at,
    timeless,
    train_tiny,
    words,
)

import ddcli
from ddcli import start as starts
from ddcli.checkpoint import checkpoints
from ddcli.config import Config, load_config
from ddcli.denoiser import AT_ONCE, NetworkDenoiser
from ddcli.errors import DdcliError
from ddcli.optimizer import make_optimizer
from ddcli.plan import Silent, dry_run, make_plan
from ddcli.start import settle
from ddcli.training import train
from ddcli.weights import weights_of


def slow(*kinds):
    return [pytest.param(kind, marks=pytest.mark.slow) for kind in kinds]


@pytest.fixture(scope="module")
def bert_run(folders, text_file, tmp_path_factory):
    """A BERT that was fine-tuned for some steps."""
    run = tmp_path_factory.mktemp("start") / "bert"
    return train(start_config(folders("bert"), text_file, samples__every=6, train__lr=3e-3), run)


@pytest.fixture(scope="module")
def own_run(text_file, tmp_path_factory):
    """Of our network, with uniform noise; short, for others to start from."""
    run = tmp_path_factory.mktemp("start") / "own"
    short = {"train__steps": 4, "checkpoint__every": 2, "validation__every": 0}
    train_tiny(run, text_file, process__name="uniform", **short)
    return run


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Two documents a line."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in words(80).splitlines()))
    return path


@pytest.fixture(scope="module")
def llama_run(folders, texts, tmp_path_factory):
    """A Llama that was made to look ahead, trained on texts of a line each."""
    run = tmp_path_factory.mktemp("start") / "llama"
    return train(start_config(folders("llama"), texts, samples__every=6, train__lr=3e-3), run)


def masked(tokenizer, text, every=3):
    """Ids (1, L) of a text, each third of them masked."""
    ids = torch.tensor(tokenizer.encode(text))[None].long()
    ids[:, ::every] = tokenizer.mask_id
    return ids


def logits_of(model, ids):
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        return logits_at(model.plain, ids, ids.double(), everywhere)


# -- a run ------------------------------------------------------------------------------------------------


def test_training_begins_where_the_model_stands(folders, text_file):
    plan = make_plan(start_config(folders("bert"), text_file), None, Silent())
    denoiser = NetworkDenoiser(plan.network, plan.process, plan.head, torch.float32)
    given = ddcli.load(folders("bert"))
    ids = masked(given.tokenizer, "the cat sat on a mat")
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        assert torch.equal(logits_at(denoiser, ids, ids.double(), everywhere), logits_of(given, ids))


def test_a_run_learns(bert_run):
    found = metrics(bert_run)
    assert [line["step"] for line in found] == [0, 5, 6, 10, 12]
    bounds = [line["bound_nats_per_token"] for line in found if "bound_nats_per_token" in line]
    assert len(bounds) == 3
    assert bounds[0] - bounds[-1] > 3 * found[0]["bound_stderr"]
    assert (bert_run / "samples" / "step-00000012.txt").read_text()


@pytest.mark.parametrize(
    "kind", ["bert", "modernbert", *slow("deberta-v2", "xlm-roberta", "esm", "longformer", "albert")]
)
def test_plain_transformers_reads_a_run(kind, folders, text_file, tmp_path, request):
    if kind == "bert":
        run = request.getfixturevalue("bert_run")
    else:
        run = train(
            start_config(folders(kind), text_file, train__steps=1, validation__every=0), tmp_path / "run"
        )
    model = ddcli.load(run)
    whole, told = hf.AutoModelForMaskedLM.from_pretrained(run, output_loading_info=True)
    assert not told["missing_keys"] | told["unexpected_keys"] | told["mismatched_keys"]
    assert type(whole) is type(hf.AutoModelForMaskedLM.from_pretrained(folders(kind)))
    ids = masked(model.tokenizer, "the cat sat on a mat")
    opening, closing = model.tokenizer.ends
    asked = torch.tensor([[*opening, *ids[0].tolist(), *closing]])
    with torch.no_grad():
        wanted = whole.eval()(input_ids=asked, attention_mask=torch.ones_like(asked)).logits[0, 1:-1]
    found = logits_of(model, ids)
    torch.testing.assert_close(found, wanted[:, : found.shape[1]], atol=1e-5, rtol=1e-5)
    before = logits_of(ddcli.load(folders(kind)), ids)
    assert (found - before).abs().max() > 1e-5
    checkpoint = ddcli.load(checkpoints(run)[-1][1])
    assert torch.equal(logits_of(checkpoint, ids), found)


def test_a_fresh_process_reads_runs_without_ddcli(bert_run, llama_run):
    runs = {"AutoModelForMaskedLM": bert_run, "AutoModelForCausalLM": llama_run}
    asked = {}
    for kind, run in runs.items():
        model = ddcli.load(run)
        opening, closing = model.tokenizer.ends
        ids = [*opening, *masked(model.tokenizer, "the cat sat")[0].tolist(), *closing]
        asked[kind] = (str(run), ids)
    code = f"""
import json, sys, torch, transformers
for kind, (run, ids) in {asked!r}.items():
    model = getattr(transformers, kind).from_pretrained(run, trust_remote_code=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(run, trust_remote_code=False)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0]
    print(json.dumps([tokenizer("the cat")["input_ids"], tokenizer.mask_token_id, logits.tolist()]))
assert not [name for name in sys.modules if name.startswith("ddcli")]
"""
    told = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True, check=True
    )
    for line, (run, ids), name in zip(
        told.stdout.splitlines(), asked.values(), ("bert", "llama"), strict=True
    ):
        said, mask, logits = json.loads(line)
        model = ddcli.load(run)
        opening, closing = ([2], [3]) if name == "bert" else ([1], [])
        assert said == [*opening, *model.tokenizer.encode("the cat").tolist(), *closing]
        assert mask == model.tokenizer.mask_id
        found = logits_of(model, torch.tensor([ids[1 : len(ids) - len(closing)]]))
        wanted = torch.tensor(logits)[:, : found.shape[1]]
        place = slice(1, -1) if name == "bert" else slice(0, -1)  # of what is said one before it
        torch.testing.assert_close(found, wanted[place], atol=1e-5, rtol=1e-5)


def test_resuming_is_exact_and_needs_no_more_than_the_run(bert_run, text_file, tmp_path, folders):
    own = copy_of(folders("bert"), tmp_path)
    config = start_config(own, text_file, samples__every=6, train__lr=3e-3)
    stop_at(7, tmp_path / "run", config)
    for file in own.iterdir():
        file.unlink()
    own.rmdir()
    train(config, tmp_path / "run", resume=True)
    for run in (tmp_path / "run", bert_run):
        assert (run / "config.toml").is_file()
    assert timeless(tmp_path / "run") == timeless(bert_run)
    (_, mine), (_, theirs) = checkpoints(tmp_path / "run")[-1], checkpoints(bert_run)[-1]
    for name in ("weights", "ema", "optimizer"):
        assert (mine / f"{name}.safetensors").read_bytes() == (theirs / f"{name}.safetensors").read_bytes()
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (
        bert_run / "model.safetensors"
    ).read_bytes()


def test_another_start_is_no_way_to_go_on(bert_run, text_file, folders, tmp_path):
    run = copy_of(bert_run, tmp_path)
    config = start_config(folders("modernbert"), text_file, samples__every=6, train__lr=3e-3)
    with pytest.raises(DdcliError, match=r"cannot go on with other settings: model\.start"):
        train(config, run, resume=True)


def test_every_command_works_on_a_run(bert_run, text_file, tmp_path):
    run = copy_of(bert_run, tmp_path)
    (tmp_path / "letter.txt").write_text("The  cat [MASK:2] on [MASK:1-3] mat\n")
    told = command("infill", run, tmp_path / "letter.txt", "--seed", 1)
    assert told.code == 0, told.err
    assert told.out.startswith(b"The  cat ")
    assert command("sample", run, "--seed", 1, "--steps", 4).out
    told = command("eval", run, "--limit", 1, "--sweep", "steps=2", "--save", "--json")
    assert told.code == 0, told.err
    record = json.loads(told.out)
    assert record["model"]["parameters"] == ddcli.load(run).parameters > 0
    assert "quality" in ddcli.load(run).budgets
    assert command("sample", run, "--budget", "fast", "--seed", 1).out
    told = command("doctor", run)
    assert b"finished at step 12" in told.out
    told = command("sample", run, "--block", 4, "--cache", "prefix")
    assert "have no cache" in told.err


def test_a_dry_run_tells_what_would_be_done(folders, text_file):
    told = command("train", "--from", folders("bert"), "--data", text_file, "--length", 32, "--dry-run")
    assert told.code == 0, told.err
    assert b'start = "' in told.out
    assert b"lr = 0.0001" in told.out
    assert f"# {ddcli.load(folders('bert')).parameters:,} parameters".encode() in told.out
    assert dry_run(start_config(folders("bert"), text_file, data__length=None), Silent()).data.length == 64


def test_the_card_says_where_a_run_began(bert_run, folders):
    card = (bert_run / "README.md").read_text()
    assert "library_name: transformers" in card
    assert f"- Started from `{folders('bert').name}`" in card
    assert "AutoModelForMaskedLM.from_pretrained" in card


def test_no_path_of_this_machine_is_in_what_is_to_be_uploaded(bert_run, folders, text_file):
    kept_here = ("config.toml", "report.html", "checkpoints")
    paths = [
        str(folders("bert").parent).encode(),
        str(text_file.parent).encode(),
        str(bert_run.parent).encode(),
    ]
    for name, content in files(bert_run).items():
        assert name.startswith(kept_here) or not any(path in content for path in paths), name


# -- what is learnt from ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "llama", *slow("modernbert")])
def test_padding_is_neither_attended_to_nor_in_the_loss(kind, folders, tmp_path):
    """So records cost the same, and have the same gradient, however far they are padded."""
    path, found, records = folders(kind), [], tmp_path / "records.txt"
    lines = (line.split()[: 1 + i % 4] for i, line in enumerate(words(100).splitlines()))
    records.write_text("".join(" ".join(line) + "\n" for line in lines))
    for length in (20, 28):
        config = start_config(path, records, data__lines=True, data__length=length)
        plan = make_plan(config, None, Silent())
        denoiser = NetworkDenoiser(plan.network, plan.process, plan.head, torch.float32)
        if not found:
            noised = plan.task.noised(plan.data.train.batch(0, 4, 0), 0, plan.device)
            assert noised.padded
            assert noised.asked.sum() > 4
        else:  # the same clocks and masks, with more padding behind
            parts = ("x0", "xt", "clock", "running", "valid", "asked")
            wide = {name: torch.nn.functional.pad(getattr(noised, name), (0, 8)) for name in parts}
            noised = dataclasses.replace(noised, **wide)
        loss = plan.task.loss(denoiser, noised)
        weights = [w for w in plan.network.parameters() if w.requires_grad]
        found.append((loss.detach(), torch.autograd.grad(loss, weights)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_records_stand_between_the_ends_that_the_model_knows(folders, names_file, tmp_path):
    config = start_config(folders("bert"), names_file, data__lines=True, data__length=None, train__steps=2)
    run = train(config, tmp_path / "run")
    model = ddcli.load(run)
    plan = make_plan(config, None, Silent())
    for network in (model.plain.network, plan.network):
        assert len(network.ends) == 0
    tokens = plan.data.train.tokens
    assert (tokens[:, 0] == model.tokenizer.ends[0]).all()
    assert ((tokens == model.tokenizer.ends[1]).sum(1) == 1).all()
    sample = model.sample(1, seed=1, steps=2)[0]
    assert len(sample.tokens) in model.record_lengths


def test_what_parts_texts_is_given_and_never_written(folders, texts, tmp_path):
    plan = make_plan(start_config(folders("bert"), texts), None, Silent())
    tokens, given = plan.data.train.tokens, plan.data.train.given
    parting = tokens == plan.data.tokenizer.eos_id
    assert parting.any()
    assert given[parting].all()
    assert not plan.process.vocabulary.is_text[plan.data.tokenizer.eos_id]
    assert plan.network.config.diffusion["end_of_text"] is False


def test_weights_that_nothing_depends_on_are_left_alone(folders, text_file):
    plan = make_plan(start_config(folders("esm"), text_file), None, Silent())
    frozen = {name for name, weight in plan.network.named_parameters() if not weight.requires_grad}
    assert frozen == {f"network.esm.contact_head.regression.{part}" for part in ("weight", "bias")}
    assert plan.config.train.optimizer == "adamw"  # as it was trained
    groups = make_optimizer(plan.network, plan.config.train, plan.dtype).param_groups
    assert sum(len(group["params"]) for group in groups) + len(frozen) == len(weights_of(plan.network))
    embeddings = plan.network.network.get_input_embeddings().weight
    assert not any(weight is embeddings for weight in groups[0]["params"])
    assert groups[0]["params"]


@pytest.mark.parametrize("kind", ["bert", *slow("modernbert", "longformer")])
def test_a_large_vocabulary_has_the_gradient_of_a_small_one(kind, folders, text_file, monkeypatch):
    """Logits of a few rows at a time give what all of them at once do; and so do layers computed again."""
    found = []
    for at_once, again in ((2**24, False), (1, False), (2**24, True)):
        monkeypatch.setitem(AT_ONCE, "cpu", at_once)
        monkeypatch.setattr("ddcli.denoiser.ROW_COUNT", 8)
        config = start_config(folders(kind), text_file, train__recompute=again)
        plan = make_plan(config, None, Silent())
        denoiser = NetworkDenoiser(plan.network, plan.process, plan.head, torch.float32)
        loss = plan.task.loss(denoiser, plan.task.noised(plan.data.train.batch(0, 2, 0), 0, plan.device))
        weights = [w for w in plan.network.parameters() if w.requires_grad]
        found.append(torch.autograd.grad(loss, weights))
    for other in found[1:]:
        for mine, theirs in zip(found[0], other, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


# -- what cannot be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("model.size", "tiny"),
        ("model.width", 64),
        ("model.layers", 2),
        ("model.heads", 2),
        ("model.block", 8),
        ("model.clock", "time"),
        ("model.self_condition", True),
        ("model.predicts", "score"),
        ("data.tokenizer", "char"),
        ("process.name", "uniform"),
        ("objective.name", "score-entropy"),
        ("data.length", 65),
        ("data.label_column", "kind"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(setting, value, folders, text_file, tmp_path):
    source = text_file
    if setting == "data.label_column":
        source = tmp_path / "rows.csv"
        source.write_text("text,kind\n" + "\n".join(f"{line},a" for line in words(60).splitlines()))
    config = start_config(
        folders("bert"), source, **{setting.replace(".", "__"): value}, data__lines=source != text_file
    )
    with pytest.raises(DdcliError) as refused:
        train(config, tmp_path / "run")
    said = str(refused.value).replace("_", "-")
    assert "\n" not in said
    section, _, name = setting.replace("_", "-").partition(".")
    assert (section if name == "name" else name) in said
    assert not (tmp_path / "run").exists()


# -- from a run -------------------------------------------------------------------------------------------

AS_LONG = {key: value for key, value in SETTINGS.items() if key not in (*OURS, "data.length")}


def go_on_config(start, source, **changes):
    changed = {"train.steps": 4, **{key.replace("__", "."): value for key, value in changes.items()}}
    flags = {**AS_LONG, "model.start": str(start), "data.source": str(source), **changed}
    return load_config(None, flags=flags)


@pytest.mark.parametrize("kind", ["uniform", *slow("records")])
def test_a_run_hands_on_its_weights_its_noise_and_its_tokenizer(kind, request, tmp_path):
    begun = request.getfixturevalue({"uniform": "own_run", "records": "records_run"}[kind])
    (tmp_path / "other.txt").write_text(words(80, seed=9))
    config = go_on_config(begun, tmp_path / "other.txt", data__lines=kind == "records")
    plan = make_plan(config, None, Silent())
    model = ddcli.load(begun)
    assert type(plan.process) is type(model.process)
    assert plan.data.tokenizer.hf.get_vocab() == model.tokenizer.hf.get_vocab()
    assert plan.config.train.lr == 5e-4
    own, theirs = weights_of(plan.network), weights_of(model.network)
    assert all(torch.equal(own[name], theirs[name]) for name in theirs)
    if kind != "records":
        assert plan.data.length == model.length


def test_a_run_that_began_with_another_goes_on_without_it(own_run, text_file, tmp_path):
    begun = copy_of(own_run, tmp_path)
    config = go_on_config(begun, text_file, train__steps=20)
    train(config, tmp_path / "whole")
    stop_at(13, tmp_path / "parts", config)
    begun.rename(tmp_path / "elsewhere")
    train(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert ddcli.load(tmp_path / "parts").sample(1, steps=2, seed=1)


@pytest.mark.parametrize("kind", ["own", "bert"])
def test_a_run_that_was_begun_when_another_size_was_usual_goes_on(
    kind, own_run, text_file, tmp_path, folders
):
    made = go_on_config(own_run, text_file) if kind == "own" else start_config(folders("bert"), text_file)
    small = settle(made, model__size="small")
    with pytest.MonkeyPatch.context() as then:
        then.setattr(starts, "Config", lambda: settle(Config(), model__size="small"))
        train(small, tmp_path / "run")
    more = settle(small, train__steps=small.train.steps + 2)
    train(more, tmp_path / "run", resume=True)
    assert metrics(tmp_path / "run")[-1]["step"] == more.train.steps


@pytest.mark.parametrize("kind", ["autoregressive", "blocks", "labels", "generator"])
def test_runs_of_every_kind_are_gone_on_with(kind, text_file, tmp_path):
    settings = {
        "autoregressive": {"process__name": "autoregressive"},
        "blocks": {"model__block": 8},
        "generator": {"process__name": "band:1", "process__schedule": "linear"},
        "labels": {"data__lines": True, "data__label_column": "kind", "data__length": None},
    }[kind]
    source, again = text_file, {}
    if kind == "generator":
        again = {"process__name": "band:1"}  # whose schedule is another, if nobody says
    if kind == "labels":
        source = tmp_path / "rows.csv"
        rows = (f"{line},{'verse' if i % 2 else 'prose'}\n" for i, line in enumerate(words(60).splitlines()))
        source.write_text("text,kind\n" + "".join(rows))
        again = {"data__lines": True, "data__label_column": "kind"}
    begun = tmp_path / "begun"
    train_tiny(begun, source, train__steps=1, validation__every=0, **settings)
    run = train(go_on_config(begun, source, train__steps=2, validation__every=0, **again), tmp_path / "run")
    before, after = ddcli.load(begun), ddcli.load(run)
    assert type(after.process) is type(before.process)
    assert (after.block, after.labels) == (before.block, before.labels)


def test_a_checkpoint_is_a_start_too(own_run, bert_run, text_file):
    for run, name in ((own_run, "embedding.weight"), (bert_run, "network.cls.predictions.bias")):
        step = checkpoints(run)[0][1]
        plan = make_plan(go_on_config(step, text_file, data__length=32), None, Silent())
        wanted = load_file(step / "ema.safetensors")[name]
        assert torch.equal(weights_of(plan.network)[name], wanted)
        assert not torch.equal(load_file(checkpoints(run)[-1][1] / "ema.safetensors")[name], wanted)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model__width": 64}, "model.width = 64"),
        ({"model__block": 8}, "model.block = 8"),
        ({"process__name": "hybrid"}, "process.name = hybrid"),
        ({"model__clock": "none"}, "model.clock = none"),
        ({"data__tokenizer": "byte"}, "data.tokenizer does not go with --from"),
        ({"model__size": "base"}, "model.size does not go with --from"),
    ],
)
def test_what_a_run_decides_is_refused_by_name(changes, said, own_run, text_file):
    with pytest.raises(DdcliError, match=said):
        make_plan(go_on_config(own_run, text_file, **changes), None, Silent())


def test_a_model_that_reads_padding_is_no_start(folders, text_file, monkeypatch):
    monkeypatch.setattr("ddcli.backbones.pretrained.PretrainedMaskedLM.heeds_padding", lambda *_: False)
    with pytest.raises(DdcliError, match="a BertForMaskedLM, which reads padding as text"):
        make_plan(start_config(folders("bert"), text_file), None, Silent())


@pytest.mark.parametrize(
    ("start", "said"),
    [("nowhere/at/all", "no run folder"), ("{folder}", "no model: it has no config.json")],
)
def test_a_start_that_is_none_is_refused(start, said, text_file, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DdcliError, match=said):
        make_plan(start_config(start.format(folder=tmp_path / "empty"), text_file), None, Silent())


# -- from a decoder ---------------------------------------------------------------------------------------

DECODERS = ["llama", "gpt2", *slow("qwen3", "gemma")]


def looking_ahead(folder):
    """As the definition has it: all see all, and a mask that is the mean of all embeddings."""
    whole = hf.AutoModelForCausalLM.from_pretrained(folder).eval()
    known = whole.get_input_embeddings().weight.detach()[:330]
    whole.resize_token_embeddings(max(331, whole.config.vocab_size), mean_resizing=False)
    with torch.no_grad():
        whole.get_input_embeddings().weight[330] = known.mean(0)
    whole.config.is_causal = False
    return whole


@pytest.mark.parametrize("kind", DECODERS)
def test_a_position_is_foretold_by_what_is_said_one_before_it(kind, folders, text_file):
    plan = make_plan(start_config(folders(kind), text_file), None, Silent())
    network, tokenizer = plan.network, plan.data.tokenizer
    assert network.in_halves
    assert (tokenizer.mask_id, tokenizer.hf.mask_token) == (330, "<|mask|>")
    ids = masked(tokenizer, "the cat sat on a mat")
    opening = [1] if kind in ("llama", "gemma") else [0]
    asked = torch.tensor([[*opening, *ids[0].tolist()]])
    with torch.no_grad():
        wanted = looking_ahead(folders(kind))(input_ids=asked).logits[0, :-1, :331]
        found = network.head(network.trunk(ids)[0])
        causal = hf.AutoModelForCausalLM.from_pretrained(folders(kind)).eval()(input_ids=asked % 330)
    torch.testing.assert_close(found[:, :330], wanted[:, :330], atol=1e-5, rtol=1e-5)
    assert (found[:5, :330] - causal.logits[0, :5, :330]).abs().max() > 1e-3


def test_only_the_mask_is_new_to_a_decoder(folders, text_file):
    before = weights_of(hf.AutoModelForCausalLM.from_pretrained(folders("llama")))
    plan = make_plan(start_config(folders("llama"), text_file), None, Silent())
    after = weights_of(plan.network.network)
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert torch.equal(after[name][: len(weight)], weight)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        torch.testing.assert_close(after[name][330], before[name].mean(0))


@pytest.mark.parametrize("kind", DECODERS)
def test_plain_transformers_reads_a_decoder_that_looks_ahead(kind, folders, text_file, tmp_path, request):
    if kind == "llama":
        run = request.getfixturevalue("llama_run")
    else:
        changes = {"train__steps": 1, "validation__every": 0}
        run = train(start_config(folders(kind), text_file, **changes), tmp_path / "run")
    model, whole = ddcli.load(run), hf.AutoModelForCausalLM.from_pretrained(run).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(run)
    assert tokenizer.mask_token_id == model.tokenizer.mask_id == 330
    assert whole.config.is_causal is False
    ids = masked(model.tokenizer, "the cat sat on a mat")
    asked = torch.tensor([[*model.tokenizer.ends[0], *ids[0].tolist()]])
    with torch.no_grad():
        wanted = whole(input_ids=asked, attention_mask=torch.ones_like(asked)).logits[0, :-1]
    found = logits_of(model, ids)
    torch.testing.assert_close(found, wanted[:, : found.shape[1]], atol=1e-5, rtol=1e-5)
    assert torch.equal(logits_of(ddcli.load(checkpoints(run)[-1][1]), ids), found)


def test_a_decoder_learns_to_fill_masks_and_to_end_texts(llama_run, texts):
    bounds = [line["bound_nats_per_token"] for line in metrics(llama_run) if "bound_nats_per_token" in line]
    assert bounds[0] - bounds[-1] > 0.3
    plan = make_plan(start_config(llama_run, texts), None, Silent())
    eos, blocks = plan.data.tokenizer.eos_id, plan.data.train
    assert (blocks.tokens == eos).any()
    assert blocks.given is None
    assert plan.process.vocabulary.is_text[eos]
    assert plan.data.tokenizer.pad_id == eos
    model = ddcli.load(llama_run)
    assert model.about["end_of_text"] is True
    ways = model.infill("the [MASK:3] sat", 12, seed=1, steps=3, temperature=3.0, score=False)
    assert all(eos not in way.gaps[0].tokens for way in ways)
    assert all(b"endoftext" not in sample.content for sample in model.samples(8, steps=2, seed=1))


@pytest.mark.slow
def test_a_decoder_goes_on_exactly(folders, texts, llama_run, tmp_path):
    config = start_config(folders("llama"), texts, samples__every=6, train__lr=3e-3)
    stop_at(7, tmp_path / "run", config)
    train(config, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", llama_run)


@pytest.mark.slow
def test_a_decoders_records_stand_between_its_ends(folders, names_file, tmp_path):
    config = start_config(folders("gpt2"), names_file, data__lines=True, data__length=None, train__steps=2)
    run = train(config, tmp_path / "run")
    model = ddcli.load(run)
    plan = make_plan(config, None, Silent())
    assert (plan.data.train.tokens[:, 0] == 0).all()
    assert len(model.plain.network.ends) == len(plan.network.ends) == 0
    assert len(model.sample(1, seed=1, steps=2)[0].tokens) in model.record_lengths
    ids = torch.tensor([[0, 20, 330, 22, 0]])
    whole = hf.AutoModelForCausalLM.from_pretrained(run).eval()
    with torch.no_grad():
        wanted = whole(input_ids=ids).logits[0, :-1, :331]
    torch.testing.assert_close(logits_of(model, ids)[1:], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("mamba", "MambaForCausalLM"),
        ("mamba2", "Mamba2ForCausalLM"),
        ("qwen3_next", "Qwen3NextForCausalLM"),
    ],
)
def test_a_decoder_that_stays_causal_is_refused(folders, text_file, kind, name, capfd):
    start = folders(kind)
    capfd.readouterr()
    with pytest.raises(DdcliError, match=f"a {name}, which stays causal") as refused:
        make_plan(start_config(start, text_file), None, Silent())
    assert "\n" not in str(refused.value)
    assert capfd.readouterr().err == ""


def test_a_model_that_knows_no_bf16_computes_in_float32(folders, text_file, monkeypatch):
    """DeBERTa's own mask is a number that bf16 does not have."""
    start, heard = folders("deberta"), Heard()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)
        plan = make_plan(start_config(start, text_file, train__precision="auto"), None, heard)
    assert plan.dtype == torch.float32
    assert f"{start} cannot compute in bf16; in float32, then" in heard.text
    for refused in (
        lambda: make_plan(start_config(start, text_file, train__precision="bf16"), None, Silent()),
        lambda: ddcli.load(start, precision="bf16"),
    ):
        with pytest.raises(DdcliError, match="cannot compute in bf16; give --precision float32"):
            refused()
    monkeypatch.setattr("ddcli.saved.pick_precision", lambda *_, **__: torch.bfloat16)  # as on a GPU
    assert ddcli.load(start).plain.dtype == torch.float32


def test_where_memory_lacks_nothing_is_said_of_a_precision(folders, monkeypatch):
    network = ddcli.load(folders("bert")).plain.network
    assert network.computes_in(torch.bfloat16)

    def lacking(*_, **__):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(network, "trunk", lacking)
    with pytest.raises(torch.OutOfMemoryError):
        network.computes_in(torch.bfloat16)


def test_training_starts_from_no_pickle_and_says_what_to_do(folders, text_file, tmp_path):
    own = copy_of(folders("bert"), tmp_path)
    (own / "model.safetensors").rename(own / "pytorch_model.bin")
    with pytest.raises(DdcliError, match=r"make safetensors of it by transformers") as refused:
        make_plan(start_config(own, text_file), None, Silent())
    assert "--allow-pickle" not in str(refused.value)


def test_a_window_of_all_layers_is_not_opened_step_by_step(folders, text_file):
    """A Mistral's, of 16 tokens: beyond it what is opened is not what is seen."""
    config = start_config(folders("mistral"), text_file, train__anneal=5, data__length=24)
    with pytest.raises(DdcliError, match="masks of its own; leave it out"):
        make_plan(config, None, Silent())


def test_a_decoder_whose_mask_is_its_end_is_refused(folders, text_file, tmp_path):
    own = copy_of(folders("gpt2"), tmp_path)
    edit_json(own / "tokenizer_config.json", mask_token="<|endoftext|>")
    with pytest.raises(DdcliError, match=r"has <\|endoftext\|> for its eos_token as well as for masks"):
        make_plan(start_config(own, text_file), None, Silent())


def test_a_decoder_that_was_not_trained_to_fills_no_masks(folders):
    with pytest.raises(DdcliError, match=r"a causal decoder: .* \(`ddcli train --from`\)"):
        ddcli.load(folders("llama"))


@pytest.mark.parametrize("kind", ["llama", *slow("gpt2", "qwen3", "gemma")])
def test_a_causal_mask_is_opened_step_by_step(kind, folders, text_file):
    """From what the decoder was to one that sees all, as plain transformers computes with such a mask."""
    plan = make_plan(start_config(folders(kind), text_file, train__anneal=10), None, Silent())
    batch = plan.data.train.batch(0, 2, 0)
    begun, half, done = (plan.task.noised(batch, step, plan.device) for step in (0, 4, 9))
    assert done.ahead is None
    above = torch.ones(32, 32).triu(1).bool()
    assert begun.ahead[above].double().mean().item() == pytest.approx(0.1, abs=0.05)
    assert half.ahead[above].double().mean().item() == pytest.approx(0.5, abs=0.08)
    assert torch.equal(half.ahead, plan.task.noised(batch, 4, plan.device).ahead)
    whole, opening = looking_ahead(folders(kind)), plan.data.tokenizer.ends[0]
    asked = torch.cat([torch.tensor([opening, opening]), half.xt], 1)
    ahead = torch.cat([half.ahead[:1], half.ahead])  # what opens a text sees what its first token does
    ahead = torch.cat([ahead[:, :1], ahead], 1)
    seen = torch.ones(33, 33).tril().bool() | ahead
    mask = torch.zeros(33, 33).masked_fill(~seen, -3e38)[None, None].expand(2, -1, -1, -1)
    with torch.no_grad():
        wanted = whole(input_ids=asked, attention_mask=mask).logits[:, :-1, :330]
        found = plan.network.head(plan.network.trunk(half.xt, ahead=half.ahead)[0])[:, :330]
        causal = plan.network.trunk(half.xt, ahead=torch.zeros_like(half.ahead))
        start = hf.AutoModelForCausalLM.from_pretrained(folders(kind)).eval().base_model
        plain = start(input_ids=asked % 330)[0][:, :-1]
    torch.testing.assert_close(found, wanted[0], atol=1e-5, rtol=1e-5)
    first = int((asked[0] == 330).nonzero()[0])
    torch.testing.assert_close(causal[0, :first], plain[0, :first], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_an_opening_mask_goes_on_exactly(folders, text_file, tmp_path):
    config = start_config(folders("llama"), text_file, train__anneal=9)
    train(config, tmp_path / "whole")
    stop_at(4, tmp_path / "parts", config)
    train(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_what_was_opened_before_is_not_closed_and_opened_again(folders, text_file, tmp_path):
    config = start_config(folders("llama"), text_file, train__anneal=2, train__steps=4, checkpoint__every=2)
    run = train(config, tmp_path / "run")
    assert train(
        config.model_copy(update={"train": config.train.model_copy(update={"steps": 5})}), run, resume=True
    )
    with pytest.raises(DdcliError, match="is not causal"):
        make_plan(start_config(run, text_file, train__anneal=2), None, Silent())


def test_only_what_is_causal_is_opened(folders, text_file, own_run, monkeypatch):
    for start, said in (
        (folders("bert"), "a BertForMaskedLM is not causal"),
        (own_run, "start --from a model of transformers"),
    ):
        with pytest.raises(DdcliError, match=f"train.anneal does not go with .*{said}"):
            make_plan(start_config(start, text_file, train__anneal=10), None, Silent())
    network = make_plan(start_config(folders("llama"), text_file, train__anneal=10), None, Silent()).network
    assert network.can_anneal(32)
    monkeypatch.setattr(network.config, "sliding_window", 16, raising=False)
    assert network.can_anneal(16)
    assert not network.can_anneal(32)  # of a Mistral, all layers have one, and none says so
    monkeypatch.setattr(network.config, "layer_types", ["full_attention"], raising=False)
    assert network.can_anneal(32)
    monkeypatch.setattr(network.config, "layer_types", ["full_attention", "sliding_attention"], raising=False)
    assert network.can_anneal(16)
    assert not network.can_anneal(32)


# -- run folders that somebody changed --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"diffusion__length": 100}, "a text of 100 tokens, of which the network reads 64"),
        ({"diffusion__process": "uniform"}, "a BertForMaskedLM serves absorbing noise alone"),
        ({"diffusion__length": ...}, "diffusion.length is missing"),
        ({"diffusion": "yes"}, "config.json is damaged: diffusion: "),
        ({"diffusion__record_lengths": {"70": 3}}, "record lengths do not fit 32 tokens"),
        ({"diffusion__labels": {"a": {"4": 3}}}, "no token for the label 'a'"),
        ({"diffusion__predicts": "fortune"}, "unknown head 'fortune'"),
        ({"hidden_size": 16}, "of shape [32], but config.json asks for [16]"),
    ],
)
def test_a_run_whose_parts_do_not_fit_is_refused_in_one_line(changes, said, bert_run, tmp_path):
    run = copy_of(bert_run, tmp_path)
    edit_json(run / "config.json", **changes)
    with pytest.raises(DdcliError) as refused:
        ddcli.load(run)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_damaged_checkpoint_is_passed_over(bert_run, text_file, folders, tmp_path):
    run = copy_of(bert_run, tmp_path)
    (checkpoints(run)[-1][1] / "weights.safetensors").write_bytes(b"broken")
    (run / "model.safetensors").unlink()
    heard = Heard()
    config = start_config(folders("bert"), text_file, samples__every=6, train__lr=3e-3)
    train(config, run, resume=True, reporter=heard)
    assert "checkpoint 12 is damaged" in heard.text
    assert timeless(run) == timeless(bert_run)
    assert (run / "model.safetensors").read_bytes() == (bert_run / "model.safetensors").read_bytes()

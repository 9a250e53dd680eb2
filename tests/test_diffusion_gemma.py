"""DiffusionGemma writes by its own `generate`, which is asked as its users would, and does nothing else."""

import json

import borrowed
import pytest
import torch
import transformers as hf
from borrowed import CANVAS
from tiny import command as ran
from tiny import edit_json
from transformers.models.diffusion_gemma import EntropyBoundSamplerConfig

import ddcli
from ddcli.errors import DdcliError
from ddcli.randomness import derive_seed

STEPS = 3

# what libraries deprecate in each other is not what is asked here
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return borrowed.diffusion_gemma(tmp_path_factory.mktemp("gemma") / "gemma")


@pytest.fixture(scope="module")
def writer(folder):
    return ddcli.load_writer(folder)


def test_its_texts_are_those_of_its_own_generate(folder, writer):
    (sample,) = writer.samples(range(2, 3), prompt="To be", length=20, steps=STEPS, seed=7, temperature=0.5)
    network = hf.DiffusionGemmaForBlockDiffusion.from_pretrained(folder)
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    given = torch.tensor([[tokenizer.bos_token_id, *tokenizer("To be", add_special_tokens=False).input_ids]])

    def spare(ids, scores):
        return scores.clone().index_fill_(-1, torch.arange(len(tokenizer), scores.shape[-1]), -torch.inf)

    torch.manual_seed(derive_seed(7, "sample", 2))
    found = network.generate(
        given,
        max_new_tokens=20 - given.shape[1],
        max_denoising_steps=STEPS,
        sampler_config=EntropyBoundSamplerConfig(0.1),
        t_min=0.2,
        t_max=0.4,
        logits_processor=hf.LogitsProcessorList([spare]),
    )
    drawn = found.sequences[0, given.shape[1] : 20].tolist()
    ends = [*drawn, tokenizer.eos_token_id].index(tokenizer.eos_token_id)
    assert sample.tokens == drawn[:ends]
    assert sample.text.startswith("To be")
    assert sample.nfe == STEPS * -(-(20 - given.shape[1]) // CANVAS)


def test_a_text_follows_from_the_seed_and_its_number(writer):
    many = writer.sample(3, length=12, steps=STEPS, seed=1)
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    assert writer.sample(range(2, 3), length=12, steps=STEPS, seed=1) == many[2:]
    assert torch.equal(torch.random.get_rng_state(), before)  # whose numbers are others' to draw
    assert len({sample.content for sample in many}) == 3
    assert max(id for sample in many for id in sample.tokens) < writer.tokenizer.vocab_size
    assert all(len(sample.tokens) < 12 for sample in many)


def test_one_that_was_taught_to_answer_is_asked_and_its_answer_is_the_text(tmp_path):
    writer = ddcli.load_writer(borrowed.diffusion_gemma(tmp_path / "gemma", chats=True))
    frames = []
    (sample,) = writer.sample(prompt="Why?", length=30, steps=2, seed=1, on_frame=frames.append)
    assert not sample.text.startswith("Why?")
    assert sample.content == writer.tokenizer.continuation([], sample.tokens)
    opening, *drafts, last = frames
    assert opening.step == 0
    assert opening.opened.all()
    assert [frame.step for frame in drafts] == [min(i, last.steps - 1) for i in range(1, len(drafts) + 1)]
    assert last.step == last.steps
    assert not last.clock.any()
    assert last.nfe.item() == sample.nfe == len(drafts)
    assert last.x[0, : len(sample.tokens)].tolist() == sample.tokens


def test_the_command_writes_with_it(folder):
    told = ran("sample", folder, "--length", 12, "--steps", 2, "--seed", 1, "--json", "--live", "--explain")
    assert told.code == 0, told.err
    assert json.loads(told.out)["nfe"] == 4
    assert "NFE at most 4 for 11 tokens in 2 canvases" in told.err
    assert b"writes with `ddcli sample`" in ran("doctor", folder).out


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["sample", "{}", "--top-k", "5"], "writes by a sampler that knows no --top-k"),
        (["sample", "{}", "--sampler", "confidence"], "entropy-bounded[:NATS] and no other"),
        (["sample", "{}", "--temperature", "0"], "cannot write at temperature 0"),
        (["sample", "{}", "--fix", "1:a"], "knows no --fix"),
        (["sample", "{}", "--length", "1"], "leave nothing to write"),
        (["sample", "{}", "--trace", "trace.jsonl"], "leave --trace out"),
        (["infill", "{}", "gaps.txt"], "only `ddcli sample` takes it"),
        (["eval", "{}", "--data", "gaps.txt"], "only `ddcli sample` takes it"),
        (["noise-viz", "--text", "a", "-m", "{}"], "only `ddcli sample` takes it"),
        (["train", "--from", "{}", "--data", "gaps.txt", "-o", "run"], "only `ddcli sample` takes it"),
    ],
)
def test_whatever_else_is_asked_of_it_is_refused(command, said, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gaps.txt").write_text("To [MASK] or not")
    told = ran(*(part.format(folder) for part in command))
    assert told.code == 2
    assert said in told.err
    assert told.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gaps.txt"]


def test_settings_of_its_own_that_will_not_do_are_named(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    edit_json(tmp_path / "generation_config.json", t_min=0.9)  # above what t_max is if nobody says
    with pytest.raises(DdcliError, match=r"generation_config\.json cannot be used: .t_max. must be"):
        ddcli.load_writer(tmp_path)


def test_every_id_of_the_network_may_be_a_token(tmp_path):
    """As of the published model, where none is to be left out."""
    writer = ddcli.load_writer(borrowed.diffusion_gemma(tmp_path / "gemma", spare=0))
    assert writer.tokenizer.vocab_size == writer.network.config.text_config.vocab_size
    assert writer.sample(length=10, steps=2, seed=1)[0].nfe == 4


def test_a_network_for_fewer_tokens_than_its_tokenizer_has_is_refused(folder, tmp_path):
    described = json.loads((folder / "config.json").read_text())
    described["text_config"]["vocab_size"] = 100
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(DdcliError, match=r"the tokenizer has 330 tokens, but the network was made for 100"):
        ddcli.load_writer(tmp_path)

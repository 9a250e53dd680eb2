"""Small masked language models of other makes, with random weights, saved as people find them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "A café isn't far: we'll walk there (slowly), said Zoë.\nThen we went home.",
    "To be, or not to be, that is the question.",
] * 3
WIDE = 32
SHAPE: dict[str, Any] = {
    "hidden_size": WIDE,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}


def wordpiece(*, lower: bool) -> Any:
    """As BERT's: blanks forgotten; without case, accents gone."""
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lower)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]"]
    train(backend, trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False))
    return between("[CLS]", "[SEP]", backend, mask="[MASK]", pad="[PAD]", unk="[UNK]", unused="[unused0]")


def byte_pairs() -> Any:
    """As RoBERTa's and ModernBERT's."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    train(
        backend,
        trainers.BpeTrainer(
            vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return between("<s>", "</s>", backend, mask="<mask>", pad="<pad>", unk="<unk>")


def unigram() -> Any:
    """As DeBERTa's and ALBERT's: pieces of words that begin with a mark."""
    backend = Backend(models.Unigram())
    backend.normalizer = normalizers.Replace("\n", " ")
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=special, unk_token="[UNK]", show_progress=False
    )
    train(backend, trainer)
    return between("[CLS]", "[SEP]", backend, mask="[MASK]", pad="[PAD]", unk="[UNK]")


def train(backend: Backend, trainer: Any) -> None:
    backend.train_from_iterator(TEXT, trainer)


def between(
    opening: str, closing: str, backend: Backend, *, mask: str, pad: str, unk: str, unused: str | None = None
) -> Any:
    ends = [(name, backend.token_to_id(name)) for name in (opening, closing)]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{opening} $A {closing}", pair=f"{opening} $A {closing} $B {closing}", special_tokens=ends
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token=opening,
        sep_token=closing,
        mask_token=mask,
        pad_token=pad,
        unk_token=unk,
    )


def network(kind: str, tokenizer: Any, **shape: Any) -> Any:
    """Of a kind, its vocabulary padded beyond the tokenizer's."""
    torch.manual_seed(0)
    config = hf.AutoConfig.for_model(
        kind,
        **{
            "vocab_size": len(tokenizer) + 7,
            "max_position_embeddings": 66,
            "pad_token_id": tokenizer.pad_token_id,
            **SHAPE,
            **shape,
        },
    )
    found = hf.AutoModelForMaskedLM.from_config(config).eval()
    with torch.no_grad():  # so that beliefs differ from place to place
        for weight in found.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return found


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {}


def family(kind: str, tokenizer: Callable[[], Any], **shape: Any) -> Callable[[], tuple[Any, Any]]:
    def build() -> tuple[Any, Any]:
        own = tokenizer()
        return network(kind, own, **shape), own

    return build


def uncased() -> Any:
    return wordpiece(lower=True)


def cased() -> Any:
    return wordpiece(lower=False)


FAMILIES = {
    "bert": family("bert", uncased),
    "bert-cased": family("bert", cased),
    "distilbert": family("distilbert", uncased, dim=WIDE, n_layers=2, n_heads=2, hidden_dim=48),
    "roberta": family("roberta", byte_pairs),
    "modernbert": family(
        "modernbert",
        byte_pairs,
        cls_token_id=0,
        bos_token_id=0,
        sep_token_id=2,
        eos_token_id=2,
        local_attention=8,
        global_attn_every_n_layers=2,
    ),
    "deberta": family(
        "deberta",
        byte_pairs,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
    ),
    "deberta-v2": family(
        "deberta-v2",
        unigram,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=16,
        position_biased_input=False,
    ),
    "albert": family("albert", unigram, embedding_size=16),
    "electra": family("electra", uncased, embedding_size=16),
    "mpnet": family("mpnet", uncased),
    "xlm-roberta": family("xlm-roberta", unigram),
    "esm": family("esm", uncased, position_embedding_type="absolute"),
    "longformer": family("longformer", byte_pairs, attention_window=[8, 8]),
}


def save(kind: str, folder: Path) -> Path:
    """A folder with a model of a kind, as `save_pretrained` writes it."""
    built, tokenizer = (FAMILIES | DECODERS)[kind]()
    built.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# -- decoders ---------------------------------------------------------------------------------------------


def decoder(kind: str, *, opens: bool, **shape: Any) -> tuple[Any, Any]:
    """A causal model of a kind, without a mask or padding token. opens: whether its tokenizer puts a token
    before a text."""
    torch.manual_seed(0)
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|begin|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    train(
        backend,
        trainers.BpeTrainer(
            vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    if opens:
        backend.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", 1)]
        )
    roles = {"bos_token": "<|begin|>"} if opens else {}
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", **roles)
    config = hf.AutoConfig.for_model(
        kind,
        **{
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 66,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "bos_token_id": 1 if opens else 0,
            "eos_token_id": 0,
            "pad_token_id": None,
            **SHAPE,
            **shape,
        },
    )
    found = hf.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # so that beliefs differ from place to place
        for weight in found.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return found, tokenizer


DECODERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llama": lambda: decoder("llama", opens=True, tie_word_embeddings=False),
    "qwen2": lambda: decoder("qwen2", opens=False, tie_word_embeddings=True),
    "qwen3": lambda: decoder("qwen3", opens=False, vocab_size=350, tie_word_embeddings=True),
    "gpt2": lambda: decoder("gpt2", opens=False, n_positions=66),
    "gemma": lambda: decoder("gemma", opens=True),
    "mistral": lambda: decoder("mistral", opens=True, sliding_window=16),
    "mamba": lambda: decoder("mamba", opens=False, state_size=4),
    "mamba2": lambda: decoder(
        "mamba2", opens=False, state_size=4, head_dim=16, num_heads=4, n_groups=1, chunk_size=8
    ),
    # of layers without attention alone; its experts round as the tokens beside one fall
    "qwen3_next": lambda: decoder("qwen3_next", opens=False, layer_types=["linear_attention"] * 2),
}
CAUSAL = {"mamba", "mamba2", "qwen3_next"}  # which cannot be made to look ahead


# -- models that only write -------------------------------------------------------------------------------

CANVAS = 8  # tokens


def diffusion_gemma(folder: Path, *, chats: bool = False, spare: int = 7) -> Path:
    """A folder of a small DiffusionGemma. chats: whether it was taught to answer. spare: ids that it has and
    its tokenizer has not."""
    tokenizer = byte_pairs()
    tokenizer.eos_token, tokenizer.bos_token = "</s>", "<s>"
    if chats:
        tokenizer.chat_template = (
            "{% for message in messages %}<s>{{ message['content'] }}</s>{% endfor %}"
            "{% if add_generation_prompt %}<s>{% endif %}"
        )
    text = {
        "vocab_size": len(tokenizer) + spare,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "global_head_dim": 16,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 16,
        "max_position_embeddings": 128,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"],
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        **SHAPE,
    }
    sight = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = hf.DiffusionGemmaConfig(
        text_config=text, vision_config={"model_type": "gemma4_vision", **sight}, canvas_length=CANVAS
    )
    torch.manual_seed(0)
    hf.DiffusionGemmaForBlockDiffusion(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {"diffusion-gemma": diffusion_gemma}

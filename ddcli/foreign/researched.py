"""The tokenizers of research checkpoints, which mostly lie elsewhere and know no mask."""

from ..errors import DdcliError
from ..hub import quiet
from ..spelling import WriterTokenizer, check_mask
from ..tokenizer import read_pretrained
from .source import Source

# that a model without one was trained with, by the number of its ids: a mask may have been added to them
TOKENIZERS = {50_258: "openai-community/gpt2", 30_522: "google-bert/bert-base-uncased"}
FILES = ("tokenizer*", "vocab*", "*.model")
END = "<|endoftext|>"  # of GPT-2, whose files need not say what it is


def research_tokenizer(source: Source, vocab_size: int) -> WriterTokenizer:
    """The tokenizer that lies in the model's folder, or else, from the hub, the one that models of
    `vocab_size` ids are known to have been trained with; with a mask as its last token where it had none.

    Raises DdcliError where there is none, and where it is of another vocabulary.
    """
    if any(any(source.folder.glob(name)) for name in FILES):
        with quiet():
            hf = read_pretrained(source.folder, source.name)
    elif vocab_size in TOKENIZERS:
        try:
            with quiet():
                hf = read_pretrained(TOKENIZERS[vocab_size])
        except DdcliError as error:
            raise DdcliError(
                f"{source.name} comes without its tokenizer: {error}; or put its files (tokenizer.json) "
                f"beside config.json in {source.folder}"
            ) from None
    else:
        raise DdcliError(
            f"{source.name} comes without its tokenizer, of {vocab_size:,} ids; put its files "
            f"(tokenizer.json) beside config.json in {source.folder}"
        )
    if hf.eos_token is None and hf.sep_token is None and END in hf.get_vocab():
        hf.add_special_tokens({"eos_token": END, "bos_token": END})
    if not hf.mask_token and len(hf) + 1 == vocab_size:
        hf.add_special_tokens({"mask_token": "[MASK]"})
    if len(hf) != vocab_size:
        raise DdcliError(
            f"{source.name}: the tokenizer has {len(hf):,} tokens, but the network was made for "
            f"{vocab_size:,}"
        )
    check_mask(hf, source.name)
    tokenizer = WriterTokenizer(hf)
    tokenizer.check(source.name)
    return tokenizer

"""Pre-train a small ModernBERT as a plain masked language model, by transformers alone.

What comes out is a folder as the hub has them, which `ddcli infill`, `sample`, `eval` and `train --from`
open: that a masked language model is a denoiser is seen on a real one. Nothing of ddcli is used here, but
accelerate is (`pip install accelerate`), by transformers. Three tenths of the tokens are asked about; of
these, eight in ten are masked and one is replaced (BERT, Devlin et al. 2019, section 3.1).

python benchmarks/masked_lm.py text8.txt runs/bert --steps 6000
ddcli infill runs/bert letter.txt
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from tokenizers.implementations import BertWordPieceTokenizer
from transformers import (
    BertTokenizer,
    DataCollatorForLanguageModeling,
    ModernBertConfig,
    ModernBertForMaskedLM,
    Trainer,
    TrainingArguments,
)


def tokenizer_of(text: str, symbols: int, length: int, folder: Path) -> BertTokenizer:
    """Uncased WordPiece, learned from the first ten million characters."""
    wordpiece = BertWordPieceTokenizer(lowercase=True)
    lines = (text[i : i + 1000] for i in range(0, min(len(text), 10_000_000), 1000))
    wordpiece.train_from_iterator(lines, vocab_size=symbols, show_progress=False)
    folder.mkdir(parents=True, exist_ok=True)
    (vocabulary,) = wordpiece.save_model(str(folder))
    return BertTokenizer(vocabulary, model_max_length=length)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="a text")
    parser.add_argument("folder", type=Path, help="where the model is written")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=128, help="tokens (default: 128)")
    parser.add_argument("--symbols", type=int, default=8192, help="of the vocabulary (default: 8192)")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--lr", type=float, default=1e-3)
    asked = parser.parse_args()
    text = asked.data.read_text(encoding="utf-8")
    tokenizer = tokenizer_of(text, asked.symbols, asked.length, asked.folder)
    inner = asked.length - 2  # [CLS] and [SEP] stand around each block
    enough = 8 * asked.steps * asked.batch_size * inner  # characters: word pieces are shorter in the mean
    tokenizer.model_max_length = 10**9  # of a text that is cut afterwards
    lines = [text[i : i + 1000] for i in range(0, min(len(text), enough), 1000)]  # so 1 word in 100 is cut
    ids = np.concatenate([tokenizer(line, add_special_tokens=False)["input_ids"] for line in lines])
    blocks = ids[: len(ids) // inner * inner].reshape(-1, inner)
    rows = [[tokenizer.cls_token_id, *block.tolist(), tokenizer.sep_token_id] for block in blocks]
    torch.manual_seed(0)
    model = ModernBertForMaskedLM(
        ModernBertConfig(
            vocab_size=len(tokenizer),
            hidden_size=asked.width,
            intermediate_size=2 * asked.width,
            num_hidden_layers=asked.layers,
            num_attention_heads=asked.width // 64,
            max_position_embeddings=asked.length,
            local_attention=asked.length,
            pad_token_id=tokenizer.pad_token_id,
            cls_token_id=tokenizer.cls_token_id,
            sep_token_id=tokenizer.sep_token_id,
            bos_token_id=tokenizer.cls_token_id,
            eos_token_id=tokenizer.sep_token_id,
            sparse_prediction=True,  # logits where they are asked for
        )
    )
    Trainer(
        model,
        TrainingArguments(
            output_dir=str(asked.folder),
            max_steps=asked.steps,
            per_device_train_batch_size=asked.batch_size,
            learning_rate=asked.lr,
            warmup_steps=asked.steps // 20,
            lr_scheduler_type="linear",
            weight_decay=0.01,
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_steps=max(1, asked.steps // 40),
            report_to=[],
        ),
        train_dataset=[{"input_ids": row} for row in rows],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3),
    ).train()
    tokenizer.model_max_length = asked.length
    model.save_pretrained(asked.folder)
    tokenizer.save_pretrained(asked.folder)


if __name__ == "__main__":
    main()

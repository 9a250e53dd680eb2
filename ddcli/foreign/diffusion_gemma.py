"""DiffusionGemma, which writes by the `generate` that transformers has for it, canvas after canvas.

Its canvases hold uniform noise, its sampler draws again what it is not sure of (entropy-bounded), and an
encoder of its own reads what stands before them. None of that is done again here: it is called, and followed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor

from ..errors import DdcliError, first_line
from ..generate import Frame
from ..hub import quiet
from ..model import Asked, OnFrame, SamplerSettings, fresh_seed
from ..process import Process, Vocabulary, make_process
from ..randomness import derive_seed
from ..sampler import EntropyBounded, make_sampler
from ..sampling import Label, OfMany, OfOne, Sample
from ..spelling import WriterTokenizer, check_size
from ..tokenizer import read_pretrained
from .pretrained import loaded, read_config
from .source import Source

HEEDED = ("sampler", "steps", "temperature")  # of the settings


class CanvasTokenizer(WriterTokenizer):
    """Of a model without masks."""

    @property
    def mask_id(self) -> int:
        return -1


@dataclass(frozen=True)
class DiffusionGemma:
    """A model that writes, and does nothing else: what `sampling.Writer` asks for."""

    name: str
    network: Any  # a DiffusionGemmaForBlockDiffusion
    tokenizer: CanvasTokenizer
    process: Process  # of its canvases
    settings: SamplerSettings  # its own
    usual: Any  # its own DiffusionGemmaGenerationConfig, every default filled in

    def choose(self, **asked: Unpack[Asked]) -> SamplerSettings:
        """Its own settings with those of `asked` that are not None. Raises DdcliError for what its sampler
        knows nothing of.

        temperature: a factor of its own falling temperatures.
        """
        changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        if other := next((name for name in changes if name not in HEEDED), None):
            option = other.replace("_", "-")
            raise DdcliError(f"{self.name} writes by a sampler that knows no --{option}; leave it out")
        chosen = self.settings.but(**changes)
        if not isinstance(make_sampler(chosen.sampler), EntropyBounded):
            raise DdcliError(
                f"{self.name} writes by sampler entropy-bounded[:NATS] and no other; leave --sampler "
                f"{chosen.sampler} out"
            )
        if not chosen.temperature:
            raise DdcliError(f"{self.name} cannot write at temperature 0; give a small one, such as 0.1")
        return chosen

    def described(self, settings: SamplerSettings) -> str:
        """Settings for people."""
        return f"sampler {settings.sampler}, steps {settings.steps}, temperature {settings.temperature:g}"

    def explanation(self, **options: Unpack[OfOne]) -> str:
        """How a text is made, and what it costs at most. Options as in `sampling.samples`."""
        length, prompt, chosen = self._asked(**options)
        new = self._new(length, self._given(prompt))
        canvases = self._canvases(new)
        cost = f"NFE at most {canvases * chosen.steps:,} for {new:,} tokens in {canvases} canvases"
        return f"{self.described(chosen)} a canvas; {cost}, fewer where it is sure"

    def samples(self, n: int | range = 1, **options: Unpack[OfMany]) -> Iterator[Sample]:
        """Texts one by one, as `sampling.samples`: n, or those of a range of numbers. Sample i depends on
        (seed, i) alone.

        length: tokens, the prompt included. prompt: what is said to a model that was taught to answer (its
        tokenizer has a chat template), whose text is the answer alone; else what the text begins with.
        Raises DdcliError for what the model knows nothing of.
        """
        length, prompt, chosen = self._asked(**options)
        given = self._given(prompt)
        new = self._new(length, given)
        seed, on_frame = options.get("seed"), options.get("on_frame")
        seed = fresh_seed() if seed is None else seed
        for i in range(n) if isinstance(n, int) else n:
            yield self._written(given, new, prompt, chosen, seed, i, on_frame)

    def sample(self, n: int | range = 1, **options: Unpack[OfMany]) -> list[Sample]:
        """`samples`, all of them."""
        return list(self.samples(n, **options))

    def _asked(
        self,
        length: int | None = None,
        prompt: str = "",
        label: Label = None,
        fixed: Mapping[int, str] | None = None,
        seed: int | None = None,
        batch_size: int = 1,
        on_frame: OnFrame | None = None,
        **settings: Unpack[Asked],
    ) -> tuple[int | None, str, SamplerSettings]:
        """What a text is to be, and how it is made. batch_size: of no use, since texts are written one by
        one, lest they change each other."""
        if label is not None or fixed:
            option = "--label" if label is not None else "--fix"
            raise DdcliError(f"{self.name} writes what follows a prompt, and knows no {option}; leave it out")
        return length, prompt, self.choose(**settings)

    def _given(self, prompt: str) -> list[int]:
        """What its encoder reads before it writes."""
        hf = self.tokenizer.hf
        if hf.chat_template:
            said = [{"role": "user", "content": prompt}]
            return list(hf.apply_chat_template(said, add_generation_prompt=True, return_dict=False))
        opening, _ = self.tokenizer.ends
        return [*(opening or [self.tokenizer.bos_id]), *self.tokenizer.encode(prompt).tolist()]

    def _new(self, length: int | None, given: Sequence[int]) -> int:
        """Tokens to write."""
        new = self.usual.max_new_tokens if length is None else length - len(given)
        if new < 1:
            raise DdcliError(
                f"the prompt's {len(given)} tokens leave nothing to write of {length}; set a larger --length"
            )
        most = self.network.config.text_config.max_position_embeddings
        if length is not None and length > most:
            raise DdcliError(f"--length {length}: {self.name} reads {most:,} tokens at once; lower it")
        return int(new)

    def _canvases(self, new: int) -> int:
        return -(-new // int(self.network.config.canvas_length))

    def _written(
        self,
        given: list[int],
        new: int,
        prompt: str,
        chosen: SamplerSettings,
        seed: int,
        index: int,
        on_frame: OnFrame | None,
    ) -> Sample:
        from transformers import LogitsProcessorList, SuppressTokensLogitsProcessor
        from transformers.models.diffusion_gemma import EntropyBoundSamplerConfig

        sampler = make_sampler(chosen.sampler)
        assert isinstance(sampler, EntropyBounded)
        device = self.network.device
        nobody = range(self.tokenizer.vocab_size, self.network.config.text_config.vocab_size)
        size = int(self.network.config.canvas_length)
        follower = Follower(self._canvases(new), size, chosen.steps, self.tokenizer.pad_id, on_frame)
        with quiet(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(derive_seed(seed, "sample", index))
            found = self.network.generate(
                torch.tensor([given], device=device),
                streamer=follower,
                max_new_tokens=new,
                max_length=None,
                max_denoising_steps=chosen.steps,
                sampler_config=EntropyBoundSamplerConfig(float(sampler.bound)),
                t_min=self.usual.t_min * chosen.temperature,
                t_max=self.usual.t_max * chosen.temperature,
                logits_processor=LogitsProcessorList([SuppressTokensLogitsProcessor([*nobody], str(device))]),
                return_dict_in_generate=True,
            )
        drawn: list[int] = found.sequences[0, len(given) :].tolist()[:new]
        named = self.usual.eos_token_id  # one, several or none
        ends = {self.tokenizer.eos_id, *([named] if isinstance(named, int) else named or ())}
        drawn = drawn[: next((place for place, id in enumerate(drawn) if id in ends), new)]
        before = b"" if self.tokenizer.hf.chat_template else prompt.encode()
        content = before + self.tokenizer.continuation(given, drawn, before)
        return Sample(content, drawn, follower.nfe, seed, index)


class Follower:
    """A streamer of transformers: it is told every draft of a canvas, and makes a frame of it.

    Legend: L tokens of all canvases, padding where nothing stands yet.
    """

    def __init__(self, canvases: int, size: int, steps: int, pad_id: int, watch: OnFrame | None) -> None:
        self._size, self._steps, self._watch = size, canvases * steps, watch
        self._x = torch.full((1, canvases * size), pad_id)
        self._settled = -1  # tokens of canvases that are done; -1 before the prompt was told
        self.nfe = 0

    def put(self, value: Tensor) -> None:
        """The prompt, then each canvas once it is done."""
        if self._settled < 0:
            self._settled = 0
            self._show(0, torch.ones_like(self._x, dtype=torch.bool))
        else:
            self._settled += self._size

    def put_draft(self, value: Tensor) -> None:
        """A canvas as it is believed to become."""
        self.nfe += 1
        before = self._x.clone()
        self._x[:, self._settled : self._settled + self._size] = value
        self._show(min(self.nfe, self._steps - 1), self._x != before)

    def end(self) -> None:
        self._settled = self._x.shape[1]
        self._show(self._steps, torch.zeros_like(self._x, dtype=torch.bool))

    def _show(self, step: int, opened: Tensor) -> None:
        if self._watch is not None:
            clock = (torch.arange(self._x.shape[1])[None] >= self._settled).double()
            nobody, nothing = torch.zeros_like(opened), torch.empty(0, 0)
            nfe = torch.tensor([self.nfe])
            self._watch(Frame(self._x.clone(), clock, opened, nfe, step, self._steps, nobody, nothing))


def diffusion_gemma(
    source: Source, described: Mapping[str, Any], device: torch.device, dtype: torch.dtype
) -> DiffusionGemma:
    """A folder of DiffusionGemma. Raises DdcliError where it is not whole."""
    from transformers import DiffusionGemmaForBlockDiffusion

    config = read_config(source, described)
    tokenizer = CanvasTokenizer(read_pretrained(source.folder, source.name))
    tokenizer.check(source.name)
    entries = config.text_config.vocab_size
    check_size(tokenizer.vocab_size, entries, source.name)
    network = loaded(DiffusionGemmaForBlockDiffusion, source, config, filled=True, dtype=dtype).to(device)
    try:
        usual, _ = network._prepare_generation_config(None)
    except ValueError as error:
        raise DdcliError(
            f"{source.name}: generation_config.json cannot be used: {first_line(error)}"
        ) from None
    settings = SamplerSettings(
        sampler=f"entropy-bounded:{usual.sampler_config.entropy_bound}", steps=usual.max_denoising_steps
    )
    process = make_process("uniform", "linear", Vocabulary(entries, None, ()))
    return DiffusionGemma(source.name, network, tokenizer, process, settings, usual)

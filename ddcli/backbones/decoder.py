"""Any causal language model of transformers as the network of a denoiser, once all its positions see all.

Legend: B batch, L length, D width. Such a model says at a position what comes next; it still does when it may
look ahead, so the belief about a position is what is said one place before it, in training and sampling alike
(the shift of DiffuLLaMA, arXiv:2410.17891).
"""

import torch
from torch import Tensor

from .pretrained import CLOSE, PretrainedMaskedLM

# more than rounding moves what is said, by its largest number; the least seen of a decoder is 0.009
AHEAD = 1e-5


class PretrainedDecoder(PretrainedMaskedLM):
    """A causal language model with `is_causal = False` in its config, in two halves."""

    shift = 1
    loader = "transformers.AutoModelForCausalLM"

    @torch.no_grad()
    def looks_ahead(self) -> bool:
        """Whether what is said of every position depends on the last token. Of a network with an order of its
        own, such as a state space model, it does not, whatever its config says."""
        ids = torch.tensor([self.probe], device=self.network.device)
        other = ids.clone()
        other[0, -1] = ids[0, 0]
        said, otherwise = self.trunk(ids)[0, :-1], self.trunk(other)[0, :-1]
        moved = (said - otherwise).abs().amax(-1)
        return bool((moved > AHEAD * said.abs().max()).all())

    def attention(self, is_text: Tensor, ahead: Tensor | None = None, **told: Tensor) -> Tensor:
        """ahead: (L, L) bool, which places of a text are seen from those before them; None: all are. What
        opens a text looks ahead as its first token does."""
        if ahead is None:
            return super().attention(is_text)
        place = torch.arange(is_text.shape[1], device=is_text.device)
        of_text = (place - len(self.ends)).clamp(min=0)
        seen = (ahead[of_text][:, of_text] | (place <= place[:, None])) & is_text[:, None, None, :]
        kind = self.network.dtype
        return torch.zeros(seen.shape, dtype=kind, device=seen.device).masked_fill(
            ~seen, torch.finfo(kind).min
        )

    @torch.no_grad()
    def can_anneal(self, length: int) -> bool:
        """Not where layers have windows of their own, nor where a mask of pairs is not what it should be."""
        config = self.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        kinds = getattr(config, "layer_types", None) or ["sliding_attention"]  # of some all layers have one
        if window and "sliding_attention" in kinds and window < length:
            return False
        ids = torch.tensor([self.probe], device=self.network.device)
        none = torch.zeros(len(self.probe), len(self.probe), dtype=torch.bool, device=ids.device)
        try:
            opened, whole = self.trunk(ids, ahead=~none), self.trunk(ids)
            causal, alone = self.trunk(ids, ahead=none), self.trunk(ids[:, :-1], ahead=none[1:, 1:])
        except (ValueError, RuntimeError, IndexError, TypeError):
            return False  # such masks are not known
        apart = max((opened - whole).abs().max(), (causal[:, :-1] - alone).abs().max())
        return bool(apart <= CLOSE * whole.abs().max())

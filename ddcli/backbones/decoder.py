"""Any causal language model of transformers as the network of a denoiser, once all its positions see all.

Legend: B batch, L length, D width. Such a model says at a position what comes next; it still does when it may
look ahead, so the belief about a position is what is said one place before it, in training and sampling alike
(the shift of DiffuLLaMA, arXiv:2410.17891).
"""

import torch

from .pretrained import CLOSE, PretrainedMaskedLM


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
        return bool((moved > CLOSE * CLOSE * said.abs().max()).all())

"""Our network as a model of transformers, for those who load a run folder by themselves."""

from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

from .transformer import DiffusionTransformerConfig, Transformer


class DiffusionTransformer(Transformer, PreTrainedModel):
    """The denoiser's network. `forward` gives logits everywhere, as any masked language model does."""

    config_class = DiffusionTransformerConfig
    base_model_prefix = ""
    main_input_name = "input_ids"

    def __init__(self, config: DiffusionTransformerConfig) -> None:
        PreTrainedModel.__init__(self, config)
        self._tied_weights_keys = {"head.weight": "embedding.weight"}  # where the config says so
        self.build(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        self.initialize(module)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(
        self,
        input_ids: Tensor,
        clock: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Logits (B, L, V) of tokens (B, L) at clocks (B, L), 1 everywhere if there are none."""
        valid = None if attention_mask is None else attention_mask.bool()
        return MaskedLMOutput(logits=self.logits(input_ids, clock, valid))


AutoConfig.register("ddcli", DiffusionTransformerConfig)
AutoModel.register(DiffusionTransformerConfig, DiffusionTransformer)
AutoModelForMaskedLM.register(DiffusionTransformerConfig, DiffusionTransformer)

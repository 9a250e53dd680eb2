"""Adapters: matrices of low rank beside those of a network, which alone are trained (LoRA, arXiv:2106.09685).

peft makes and merges them. What is trained is named by `weights_of`, as that of any other network is.
"""

import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..errors import DdcliError, first_line, needed
from ..files import whole_folder
from ..lora import EVERYWHERE, Lora
from ..weights import with_weights

NAME = "default"  # that peft gives a network's first adapters
FOLDER = "adapter"  # in a run's folder; transformers would read such files in the folder itself as a model


def _tied_targets(network: nn.Module) -> list[str]:
    """Names of the layers with adapters whose weights are those of another layer too."""
    holders = Counter(id(weight) for _, weight in network.named_parameters(remove_duplicate=False))
    layers = {name: getattr(module, "base_layer", None) for name, module in network.named_modules()}
    return [
        name
        for name, layer in layers.items()
        if layer is not None and any(holders[id(weight)] > 1 for weight in layer.parameters())
    ]


class Adapters:
    """The adapters of one network of transformers, which is changed in place."""

    def __init__(self, network: nn.Module, lora: Lora, seed: int) -> None:
        """seed: of the first factor of each; the second begins at 0, so that nothing is changed yet.

        Raises DdcliError where peft is missing, or the network has no such targets.
        """
        self.lora, peft = lora, needed("peft", "--lora", "lora")
        turned = any(isinstance(module, Conv1D) for module in network.modules())
        self.config = peft.LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=EVERYWHERE if lora.targets == EVERYWHERE else lora.targets.split("+"),
            fan_in_fan_out=turned,
        )
        with torch.random.fork_rng([]):  # they are made on the CPU, wherever the network is
            torch.manual_seed(seed)
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", ".*tie_word_embeddings")  # which are refused below
                    self.tuner = peft.LoraModel(network, {NAME: self.config}, NAME)
            except ValueError as error:  # of names that the network does not have
                raise DdcliError(f"--lora {lora}: {first_line(error)}") from None
        if tied := _tied_targets(network):
            raise DdcliError(
                f"--lora {lora}: {tied[0]} shares its weights with another layer, and an adapter beside one "
                "of them would part them; leave it out of the targets"
            )
        network.eval()
        self._dropouts: list[Any] = [m.lora_dropout for m in network.modules() if hasattr(m, "lora_dropout")]

    @contextmanager
    def dropping(self, seed: int) -> Iterator[None]:
        """With what dropout was asked for; what is dropped follows from the seed."""
        if not self.lora.dropout:
            yield
            return
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            for dropout in self._dropouts:
                dropout.train()
            try:
                yield
            finally:
                for dropout in self._dropouts:
                    dropout.eval()

    def merge(self) -> Any:
        """The network with the adapters added to its matrices, and none beside them. In place."""
        return self.tuner.merge_and_unload()

    def merged(self, weights: Mapping[str, Tensor]) -> Any:
        """A copy of the network, merged with adapters of other `weights`, by their names in the network."""
        copy = with_weights(self.tuner, {f"model.{name}": weight for name, weight in weights.items()})
        return copy.merge_and_unload()

    def save(self, folder: Path, base: str, weights: Mapping[str, Tensor]) -> None:
        """Write them as peft reads them beside the model called `base`."""
        named = {
            f"base_model.model.{name.replace(f'.{NAME}.', '.')}": weight for name, weight in weights.items()
        }
        with TemporaryDirectory() as elsewhere:
            self.config.save_pretrained(elsewhere)
            said = json.loads(Path(elsewhere, "adapter_config.json").read_text())
        said |= {"base_model_name_or_path": base, "inference_mode": True}
        with whole_folder(folder / FOLDER) as beside:
            (beside / "adapter_config.json").write_text(json.dumps(said, indent=2, sort_keys=True) + "\n")
            save_file(named, beside / "adapter_model.safetensors", metadata={"format": "pt"})

"""Hugging Face's models as targets: built from a config, without weights, by the code that transformers ships.

``initialize_weights`` visits children before parents and ``tie_weights`` follows, as when ``from_pretrained`` finds no
weights in a checkpoint.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from isogloss.audit.built import Built
from isogloss.audit.foreign import foreign
from isogloss.config.base import UserError
from isogloss.config.stored import parse_json, read_bounded
from isogloss.parallel.torchao import quiet_torchao

DEPTHS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
DECODER_DEPTHS = {"num_decoder_layers", "decoder_layers"}
BY_LAYER = ("layer_types", "layers_block_type", "mlp_layer_types")
"""Lists with an entry a layer, cut or repeated with the depth."""


@dataclass(frozen=True)
class HuggingFaceModel:
    """A config's fields, and what the user set above them."""

    name: str
    config: Mapping[str, Any]
    overrides: Mapping[str, Any]

    def build(self, n_layers: int | None = None) -> Built:
        """The model with a language model's head; of another depth where one is given.

        Raises:
            UserError: transformers is missing, or refuses the config.
        """
        config = self._config(n_layers)
        transformers = _transformers()
        with _quietly(transformers):
            kinds = (transformers.AutoModelForCausalLM, transformers.AutoModelForSeq2SeqLM)
            auto = next((kind for kind in kinds if type(config) in kind._model_mapping), None)
        if auto is None:
            raise UserError(f"{self.name}: transformers has no language model for the type {config.model_type}")
        with foreign(f"{self.name}: transformers refuses the config"), _quietly(transformers):
            return Built(auto.from_config(config))

    def n_layers(self, model: Any) -> int | None:
        """The config's depth."""
        config = model.config
        return next((n for key in DEPTHS if isinstance(n := getattr(config, key, None), int)), None)

    @property
    def ties_last(self) -> bool:
        """Transformers fills every name and ties after it; the surplus is thrown away."""
        return True

    def own_init(self, model: Any) -> Callable[[], Any]:
        """All modules by the model's rules, then tying."""

        def run() -> None:
            model.initialize_weights()
            model.tie_weights(recompute_mapping=False)

        return run

    def logits(self, model: Any, tokens: Tensor) -> Any:
        """Teacher-forced, without a cache."""
        decoder = {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
        with _quietly(_transformers()):
            return model(input_ids=tokens, use_cache=False, **decoder).logits

    def n_tokens(self, model: Any) -> int | None:
        """The config's vocabulary."""
        return model.config.get_text_config().vocab_size

    def _config(self, n_layers: int | None) -> Any:
        transformers = _transformers()
        fields = {**self.config, **self.overrides}
        model_type = fields.pop("model_type", None)
        if model_type not in transformers.CONFIG_MAPPING:
            raise UserError(f"{self.name}: transformers {transformers.__version__} has no model type {model_type!r}")
        kind = transformers.CONFIG_MAPPING[model_type]
        keys = {*kind().to_dict(), *kind.attribute_map, "dtype", "torch_dtype"}
        if unknown := sorted(set(self.overrides) - keys):
            raise UserError(f"{self.name}: the config of {model_type} has no field {unknown[0]}")
        if n_layers is not None:
            key = next(key for key in DEPTHS if key in keys)
            fields |= dict.fromkeys({key, *(keys & DECODER_DEPTHS)}, n_layers)
            for name in BY_LAYER:
                if isinstance(listed := fields.get(name), list) and listed:
                    fields[name] = (listed * -(-n_layers // len(listed)))[:n_layers]
        with foreign(f"{self.name}: transformers refuses the config"), _quietly(transformers):
            return kind(**fields)


def read_config(name: str) -> dict[str, Any]:
    """The fields of ``hf:TYPE``, of a config.json, or of the one in a folder.

    Raises:
        UserError: there is none.
    """
    if name.startswith("hf:"):
        return {"model_type": name.removeprefix("hf:")}
    path = Path(name) / "config.json" if Path(name).is_dir() else Path(name)
    try:
        fields = parse_json(read_bounded(path), str(path))
    except FileNotFoundError:
        raise UserError(f"{name} has no config.json") from None
    if not isinstance(fields, dict) or "model_type" not in fields:
        raise UserError(f"{path} is no Hugging Face config: it has no model_type")
    return fields


def version() -> str:
    """Of transformers."""
    return _transformers().__version__


@contextmanager
def _quietly(transformers: ModuleType) -> Iterator[None]:
    """Without its advice on special tokens and missing kernels, and without that of what it imports (torchao)."""
    levels = transformers.utils.logging
    former, disabled = levels.get_verbosity(), logging.root.manager.disable
    levels.set_verbosity_error()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        levels.set_verbosity(former)
        logging.disable(disabled)


def _transformers() -> ModuleType:
    try:
        with quiet_torchao():
            import transformers

            _ = transformers.AutoModelForCausalLM  # imported only when it is asked for
    except ImportError:
        raise UserError("Hugging Face's models need transformers: pip install transformers") from None
    return transformers

"""Running a model without training it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from isogloss.config.base import UserError
from isogloss.models.protocol import LanguageModel
from isogloss.nn.precision import Precision, autocast, computing_device


@contextmanager
def inference(model: LanguageModel, precision: Precision) -> Iterator[torch.device]:
    """Evaluation mode, no gradients, and products in ``precision``, for a while; gives the model's device.

    Afterwards every module is back in the mode it was in, so a model may be looked at in the middle of its training.
    Compiled blocks run as they are written: they would be compiled anew for each length and for the lack of gradients.

    Args:
        model: any model.
        precision: ``bf16`` or ``fp32``.
    """
    assert isinstance(model, nn.Module)
    device = computing_device(model)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), autocast(device, precision), _uncompiled(model):
            yield device
    finally:
        for module, training in modes:
            module.training = training


def _uncompiled(model: LanguageModel) -> AbstractContextManager[object]:
    compiled = any(block._compiled_call_impl is not None for block in model.blocks())
    # Not where nothing is compiled: it loads the compiler, which takes a second.
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def check_vocabulary(model: LanguageModel, n_tokens: int) -> None:
    """Make sure that a model knows every id of a tokenizer.

    Raises:
        UserError: it does not.
    """
    if model.vocab_size < n_tokens:
        raise UserError(
            f"the tokenizer has {n_tokens} tokens, but the model knows only {model.vocab_size}; "
            "use the tokenizer it was trained with"
        )

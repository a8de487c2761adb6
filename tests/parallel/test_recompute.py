"""A block that recomputes keeps less for its backward pass, and gives the same loss and gradients, bit for bit."""

import logging
from functools import partial
from typing import Any

import pytest
import torch
from torch._logging._internal import warning_once
from torch.utils._python_dispatch import TorchDispatchMode

from isogloss.models.decoder import Decoder
from isogloss.models.protocol import Batch
from isogloss.parallel.recompute import recompute_blocks


def losses_and_gradients(model: Decoder) -> tuple[torch.Tensor, list[torch.Tensor], int]:
    """The loss, the gradients, and the bytes that were kept, weights aside."""
    tokens = torch.randint(50, (2, 17), generator=torch.Generator().manual_seed(0))
    documents = (torch.arange(16) >= 7).long().expand(2, 16)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    alive: list[Any] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.loss(Batch(tokens[:, :-1], tokens[:, 1:].contiguous(), documents)).total
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) == len(list(model.parameters()))
    return loss.detach(), gradients, sum(kept.values())


@pytest.mark.parametrize(
    "mixer", [{"n_heads": 4, "n_kv_heads": 2, "qk_norm": True}, {"n_heads": 2, "backend": "plain"}]
)
def test_less_is_kept_and_nothing_changes(make_decoder, mixer: dict) -> None:
    found = {}
    for what in ("none", "selective", "full"):
        model = make_decoder(mixer=mixer)
        recompute_blocks(model, what)
        found[what] = losses_and_gradients(model)
    for what in ("selective", "full"):
        assert torch.equal(found[what][0], found["none"][0])
        assert all(torch.equal(a, b) for a, b in zip(found[what][1], found["none"][1], strict=True))
    assert found["full"][2] < 0.5 * found["none"][2]


def test_products_are_kept_by_the_selective_one(make_decoder) -> None:
    """Each matrix is multiplied once in the forward pass and not again in the backward one; by the full one it is."""

    class Products(TorchDispatchMode):
        n = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            Products.n += func in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default)
            return func(*args, **(kwargs or {}))

    counted = {}
    for what in ("none", "selective", "full"):
        model = make_decoder()
        recompute_blocks(model, what)
        Products.n = 0
        with Products():
            losses_and_gradients(model)
        counted[what] = Products.n
    assert counted["selective"] == counted["none"] < counted["full"]
    assert counted["full"] - counted["none"] == 6 * 2  # a block's matrices, but the last: nobody needs its result


class InPlace(TorchDispatchMode):
    """Which operations, in the blocks of a model or anywhere, have changed a tensor that was there before."""

    def __init__(self, model: Decoder | None = None) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = model is None
        for block in model.blocks() if model is not None else ():
            block.register_forward_pre_hook(lambda *_: setattr(self, "_inside", True))
            block.register_forward_hook(lambda *_: setattr(self, "_inside", False))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self._inside and func._schema.is_mutable:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def loss(model: Decoder) -> torch.Tensor:
    tokens = torch.arange(32).reshape(2, 16)
    return model.loss(Batch(tokens, tokens)).total


@pytest.mark.parametrize("norm", ["pre", "post", "output", "sandwich"])
@pytest.mark.parametrize("ffn", ["swiglu", "gelu", "relu2"])
def test_blocks_change_nothing_in_place(make_decoder, norm: str, ffn: str) -> None:
    """Compiled, a selective recomputing could lose it; PyTorch's warning of that is not shown."""
    for mixer in ({"n_kv_heads": 2, "qk_norm": True, "window": 5}, {"backend": "plain", "softcap": 20.0}):
        model = make_decoder(mixer=mixer, norm=norm, ffn={"type": ffn, "d_ff": 48})
        with InPlace() as own:  # on what it has made itself, which no graph has seen
            torch.nn.functional.rms_norm(torch.ones(4), (4,), eps=1e-6)
        with InPlace(model) as seen:
            loss(model)
        assert set(seen.found) <= set(own.found)


def test_an_operation_in_place_would_be_seen(make_decoder) -> None:
    model = make_decoder()
    norm = model.layers[0].mixer_norm
    norm.register_forward_hook(lambda module, given, result: result.relu_())
    with InPlace(model) as seen:
        loss(model)
    assert "aten.relu_.default" in seen.found


def test_compiled_it_says_nothing(make_decoder, monkeypatch) -> None:
    logger, said = logging.getLogger("torch._higher_order_ops.wrap"), []
    monkeypatch.setattr(logger, "filters", [])
    monkeypatch.setattr(logger, "handle", lambda record: said.append(record) if logger.filter(record) else None)
    for heard in (False, True):
        model = make_decoder(n_layers=1)
        recompute_blocks(model, "selective")
        if heard:  # the control: PyTorch still says it, in the words that are looked for
            logger.filters.clear()
        warning_once.cache_clear()
        torch.compiler.reset()
        (block,) = model.blocks()
        torch.compile(partial(block.recompute, torch.sin), backend="eager")(torch.ones(2, requires_grad=True))
        assert any("in-place ops" in record.getMessage() for record in said) == heard

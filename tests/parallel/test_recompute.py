"""A block that recomputes keeps less for its backward pass, and gives the same loss and gradients, bit for bit."""

import inspect
import logging
from typing import Any

import pytest
import torch
import torch._higher_order_ops.wrap as wrap

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

    class Products(torch.utils._python_dispatch.TorchDispatchMode):
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


def test_what_pytorch_warns_of_when_it_is_compiled_is_not_heard(make_decoder) -> None:
    recompute_blocks(make_decoder(), "selective")
    words = "Detected that context_fn is passed to torch.utils.checkpoint under torch.compile."
    assert words in inspect.getsource(wrap), "PyTorch puts it in other words now"
    heard: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: heard.append(record.getMessage())
    wrap.log.addHandler(listener)
    wrap.log.warning(f"\n{words}\n")
    wrap.log.warning("something else")
    wrap.log.removeHandler(listener)
    assert heard == ["something else"]

"""Projections in float8, emulated: which they are, that operands are rounded to it, what that does to gradients."""

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from isogloss.build import materialise, plan_model
from isogloss.checkpoint.load import load_checkpoint
from isogloss.config.base import UserError
from isogloss.init.fingerprint import fingerprint
from isogloss.init.schemes import LinguaConfig
from isogloss.models.decoder import Decoder, DecoderConfig
from isogloss.models.protocol import Batch
from isogloss.nn.precision import autocast
from isogloss.nn.roles import declared_tensors
from isogloss.parallel import float8 as module
from isogloss.parallel.float8 import Float8, check_float8, projections
from isogloss.parallel.recompute import Recompute
from isogloss.parallel.torchao import quiet_torchao
from isogloss.run import finish
from isogloss.run.load import load_run

CPU = torch.device("cpu")
CONFIG = DecoderConfig.model_validate(
    {
        "d_model": 64,
        "n_layers": 2,
        "vocab_size": 101,
        "mixer": {"n_heads": 4, "n_kv_heads": 2, "qk_norm": True},
        "ffn": {"type": "swiglu", "d_ff": 96},
    }
)
N_LAYERS, PER_LAYER = 2, 7
SCALINGS: tuple[Float8, ...] = ("tensorwise", "rowwise")

# Steps between neighbours are 2^-3 of a binade in e4m3 and 2^-2 in e5m2, so errors have a standard deviation of half of
# one over sqrt(3) of the binade's beginning; numbers spread evenly over a binade have a root mean square of 1.47 of it.
E4M3, E5M2 = 2**-4 / 3**0.5 / 1.47, 2**-3 / 3**0.5 / 1.47
BF16 = E4M3 / 2**4
PRODUCT = 2**0.5 * E4M3
"""Error of a product of two rounded operands, over its size: errors of its terms are independent, as the terms are."""


def decoder(float8: Float8 = "off", recompute: Recompute = "none") -> Decoder:
    planned = plan_model(CONFIG, LinguaConfig())
    return materialise(planned, seed=0, device=CPU, precision="bf16", float8=float8, recompute=recompute)


def batch() -> Batch:
    tokens = torch.randint(101, (8, 33), generator=torch.Generator().manual_seed(0))
    return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())


def step(model: Decoder) -> tuple[float, dict[str, Tensor]]:
    """The mean loss, and the gradients."""
    with autocast(CPU, "bf16"):
        total = model.loss(batch()).total / batch().n_targets()
    total.backward()
    return float(total.detach()), {
        site.name: tensor.grad for site, tensor in declared_tensors(model) if tensor.grad is not None
    }


def rms(x: Tensor) -> float:
    return float(x.detach().double().square().mean().sqrt())


def test_roles_choose() -> None:
    model = decoder("rowwise")
    chosen = {name for name, part in model.named_modules() if getattr(part, "product", None) is not None}
    inner = ("mixer.q_proj", "mixer.k_proj", "mixer.v_proj", "mixer.o_proj")
    inner += ("ffn.gate_proj", "ffn.up_proj", "ffn.down_proj")
    assert chosen == {f"layers.{layer}.{name}" for layer in range(N_LAYERS) for name in inner}
    assert model.head is not None
    assert model.head.product is None


def test_weights_and_names_are_those_of_bf16() -> None:
    plain, rounded = decoder(), decoder("tensorwise")
    assert fingerprint(rounded) == fingerprint(plain)
    assert [site for site, _ in declared_tensors(rounded)] == [site for site, _ in declared_tensors(plain)]
    assert list(rounded.state_dict()) == list(plain.state_dict())


def rounded(x: Tensor, axis: int | None) -> Tensor:
    """To e4m3 and back in float32, the largest magnitude (of each slice) at its end; by slices in powers of 2."""
    x = x.float()
    largest = x.abs().amax() if axis is None else x.abs().amax(axis, keepdim=True)
    scale = (448.0 / largest.double()).float()
    scale = scale if axis is None else scale.log2().floor().exp2()
    return (x * scale).to(torch.float8_e4m3fn).float() / scale


@pytest.mark.parametrize("scaling", SCALINGS)
def test_products_are_those_of_numbers_in_e4m3(scaling: Float8) -> None:
    """Bit for bit, and as far from the exact ones as that format has it."""
    projection = decoder(scaling).blocks()[0].ffn.up_proj
    x = torch.randn(3, 16, 64, generator=torch.Generator().manual_seed(1))
    axis = None if scaling == "tensorwise" else -1
    weight = projection.weight.detach()
    exact = x @ weight.T
    operands = rounded(x.bfloat16(), axis), rounded(weight.bfloat16(), axis)
    y = projection(x)
    assert torch.equal(y, (operands[0].flatten(0, 1) @ operands[1].T).bfloat16().unflatten(0, (3, 16)))
    assert rms(y - exact) / rms(exact) == pytest.approx(PRODUCT, rel=0.2)
    with torch.no_grad():
        assert torch.equal(projection(x), exact), "without gradients it is as it was"


def test_an_outlier_costs_its_tensor_or_its_row() -> None:
    """The rest of a tensor falls below the smallest number of e4m3, 2^-9, where 448 is the outlier."""
    for scaling in SCALINGS:
        projection = decoder(scaling).blocks()[0].ffn.up_proj
        with torch.no_grad():
            projection.weight[5, 7] = 1e6 * projection.weight.abs().max()
        x = torch.ones(1, 16, 64).index_fill(2, torch.tensor([7]), 0.0)
        y = projection(x)[0, 0]
        assert y[5] == 0
        others = torch.cat([y[:5], y[6:]])
        assert (others == 0).all() if scaling == "tensorwise" else (others != 0).all()


@pytest.mark.parametrize("scaling", SCALINGS)
def test_loss_and_gradients_are_near_those_of_bf16(scaling: Float8) -> None:
    """Near, not equal.

    Of the stream a branch's part is off by three products' errors at most (values or gates, their rounding, and the
    writer), so logits of a standard deviation s are by sqrt(3) PRODUCT s, and the mean loss, a difference of a logit
    and of a mean over logits, by as much over the square root of the number of targets; three times that is allowed.
    A projection's gradient has passed six products at most backward, each of a rounded gradient and a rounded weight,
    and meets activations that are off themselves; twice that is allowed. Gains have sums over all positions, of terms
    that cancel: no bound is known for them.
    """
    plain, other = decoder(), decoder(scaling)
    (loss, gradients), (loss_8, gradients_8) = step(plain), step(other)
    with torch.no_grad():
        spread = float(plain(batch().tokens).std())
    n_targets = batch().n_targets()
    assert 0 < abs(loss_8 - loss) < 3 * 3**0.5 * PRODUCT * spread / n_targets**0.5
    assert gradients_8.keys() == gradients.keys()
    allowed = (6 * (E5M2**2 + E4M3**2) + 3 * PRODUCT**2) ** 0.5
    for name, gradient in gradients.items():
        off = rms(gradients_8[name] - gradient) / rms(gradient)
        assert gradients_8[name].dtype == torch.float32
        assert off > 5 * BF16, name
        assert off < 2 * allowed or "_proj" not in name, f"{name}: {off}"


def test_recomputing_changes_nothing() -> None:
    loss, gradients = step(decoder("rowwise"))
    for what in ("selective", "full"):
        again, found = step(decoder("rowwise", what))
        assert again == loss
        assert all(torch.equal(found[name], gradient) for name, gradient in gradients.items())


def test_a_run_goes_on_without_it_and_with_it(tiny: Path, call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints hold what those of a model in bf16 hold."""
    monkeypatch.setattr(finish, "plot_loss", lambda *rest, **more: None)  # half of the time
    settings = (
        "model.ffn.d_ff=32",
        "data.seq_len=32",
        "train.precision=bf16",
        "watch.sample_tokens=0",
        "checkpoint.keep_last=3",
    )
    said = {}
    for step, float8 in ((3, "rowwise"), (4, "'off'"), (5, "tensorwise")):
        code, said[step], err = call("train", tiny, *settings, f"train.steps={step}", f"train.float8={float8}")
        assert (code, err) == (0, "")
    assert "projections in float8, rowwise scales, emulated" in said[3]
    assert "float8, " not in said[4]
    assert all("going on with a changed recipe" in said[step] for step in (4, 5))
    folder = tiny.parent / "runs/tiny/checkpoints"
    first, second = (load_checkpoint(folder / f"step-{step:010}") for step in (3, 4))
    assert first.index.parts.keys() == second.index.parts.keys()
    assert all(first.shapes(part) == second.shapes(part) for part in first.index.parts)
    model = load_run(tiny.parent / "runs/tiny").model
    assert all(projection.product is None for _, projection in projections(model))


def test_every_reason_is_told_at_once(tiny: Path, call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    code, _, err = call("train", tiny, "train.float8=rowwise", "name=refused")
    words = " ".join(err.split())
    assert code == 2
    for reason in (
        "pip install 'isogloss[float8]'",
        "train.precision is fp32",
        "ffn.gate_proj maps 16 numbers to 24, ffn.up_proj maps 16 numbers to 24, ffn.down_proj maps 24 numbers to 16,",
        "a rank has 24 positions of a row",
        "set train.float8='off'",
    ):
        assert reason in words
    assert not (tiny.parent / "runs/refused").exists()


def test_gpus_without_it_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = plan_model(CONFIG, LinguaConfig()).model
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU")

    def refused(scaling: Float8, *has: int) -> str:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: has)
        try:
            check_float8(scaling, model, precision="auto", n_positions=64, device="cuda")
        except UserError as error:
            return str(error)
        return ""

    assert "GPU has compute capability 8.0, and tensorwise scales need 8.9" in refused("tensorwise", 8, 0)
    assert refused("tensorwise", 8, 9) == ""
    assert "rowwise scales need 9.0" in refused("rowwise", 8, 9)
    assert refused("rowwise", 9, 0) == ""
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert "need 9.4" in refused("tensorwise", 9, 0)


def test_sizes_are_those_of_each_tensor_rank() -> None:
    model = plan_model(CONFIG, LinguaConfig()).model
    check_float8("rowwise", model, precision="bf16", n_positions=64, n_tensor=2)
    named = r"k_proj maps 64 numbers to 8, .*ffn\.down_proj maps 24 numbers to 64 on each of 4 ranks"
    with pytest.raises(UserError, match=named):
        check_float8("rowwise", model, precision="bf16", n_positions=64, n_tensor=4)


def test_other_warnings_of_an_import_are_heard(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("torchao")
    with quiet_torchao():
        logger.warning("Failed to load x.so")
        logger.warning("something else")
    logger.warning("Failed to load y.so")
    assert caplog.messages == ["something else", "Failed to load y.so"]

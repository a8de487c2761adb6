"""One of 64 ranks makes its first step on this machine: collective calls of PyTorch's fake process group go nowhere."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from isogloss.build import materialise, plan_model
from isogloss.init.apply import local_part
from isogloss.models.protocol import Batch
from isogloss.optim.groups import create_optimizer
from isogloss.parallel import fsdp
from isogloss.parallel.mesh import Layout, Stretch, check_axes, find_axes
from isogloss.recipe import load_recipe
from isogloss.run.estimate import estimate_recipe
from isogloss.run.estimate.sizes import Sizes
from isogloss.train.step import train_step

RECIPE = [
    "train.batch_size=64",
    "train.precision=fp32",
    "model.n_layers=2",
    "model.d_model=512",
    "model.mixer={n_heads: 8, n_kv_heads: 4}",
    "data.seq_len=64",
]


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    """Rank 37 of 64; made once, since PyTorch remembers groups by name."""
    with pytest.MonkeyPatch.context() as patch:
        # A fake group waits for nobody, and refuses to be told how long.
        patch.setattr(dist.ProcessGroup, "set_timeout", lambda group, timeout: None)
        dist.init_process_group("fake", rank=37, world_size=64, store=FakeStore())
        yield
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("parallel", "blocks"),
    [
        ([], [1, 1]),  # of 2.9 million weights each
        (["parallel.unit=1000000"], [1, 1]),  # the embedding, of 1.05 million, is one too
        (["parallel.replicate=2", "parallel.tensor=4"], [2]),  # of which a tensor rank has a quarter
        (["parallel.context=2", "parallel.tensor=2"], [2]),
    ],
    ids=[
        "shard 64",
        "shard 64, the embedding alone",
        "replicate 2 x shard 8 x tensor 4",
        "shard 16 x context 2 x tensor 2",
    ],
)
def test_a_rank_of_64_makes_its_first_step(parallel: list[str], blocks: list[int], monkeypatch) -> None:
    units, alone = list[int](), list[torch.nn.Module]()
    fully_shard = fsdp.fully_shard

    def counted(unit, **options):
        if isinstance(unit, list):
            units.append(len(unit))
        else:
            alone.append(unit)
        return fully_shard(unit, **options)

    monkeypatch.setattr(fsdp, "fully_shard", counted)
    recipe = load_recipe("stdlib-small", [*RECIPE, *parallel]).with_planned_vocabulary()
    axes = find_axes(recipe.parallel, 64)
    check_axes(axes, recipe.model, [Stretch(recipe.data.seq_len, recipe.train.batch_size)])
    layout = Layout(axes, recipe.parallel, "cpu")
    planned = plan_model(recipe.model, recipe.init)
    model = materialise(planned, seed=0, device=torch.device("cpu"), layout=layout, precision="fp32")
    assert units == blocks, "by the weights that a tensor rank gathers"
    estimated = Sizes(recipe, axes, planned.plan).units
    assert [len(run) for run in estimated.blocks] == units
    assert alone == [model.embedding, model][not estimated.embedding :]
    optimizer = create_optimizer(model, recipe.optim, planned.plan)
    rows, positions = recipe.train.batch_size // axes.data, recipe.data.seq_len // axes.context
    tokens = torch.randint(2048, (rows, positions + 1), generator=torch.Generator().manual_seed(0))
    batch = Batch(tokens[:, :-1], tokens[:, 1:].contiguous())
    result = train_step(model, optimizer, batch, micro_batch_size=rows, clip=1.0, precision="fp32", layout=layout)
    assert result.nonfinite == ""
    assert len(optimizer.state) == len(list(model.parameters()))
    held = sum(local_part(p)[0].numel() * 4 for p in model.parameters())
    assert held == pytest.approx(estimate_recipe(recipe, 64).memory.parts["weights"], rel=0.03)

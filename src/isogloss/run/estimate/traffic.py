"""The bytes that a rank sends to others in a step, by axis of the mesh."""

from isogloss.parallel.mesh import Axes
from isogloss.recipe import Recipe
from isogloss.run.estimate.sizes import Sizes


def estimate_traffic(recipe: Recipe, axes: Axes, sizes: Sizes) -> dict[str, float]:
    """Bytes that a rank sends in a step, by axis: ring algorithms, (n - 1) / n of what is gathered or reduced.

    Weights are gathered for each micro-batch's forward pass and, where they are resharded, again for its backward pass;
    gradients are reduced once a step. A tensor axis gathers and scatters the stream around each branch, forward and
    backward; a context axis gathers keys and values, and scatters their gradients.
    """
    model, train = recipe.model, recipe.train
    rows = train.batch_size // axes.data
    micro = min(train.micro_batch_size or rows, rows)
    n_micro = -(-rows // micro)
    split = axes.shard * axes.context
    blocks = model.n_layers * sizes.gathered_block
    again = blocks - sizes.gathered_unit if recipe.parallel.reshard == "always" else 0.0
    others = 4 * (sizes.total - model.n_layers * sizes.matrices) / axes.tensor
    reduced = sizes.reduced * sizes.total
    number = 2 if sizes.precision == "bf16" else 4
    stream = number * rows * recipe.data.seq_len * model.d_model / axes.context
    heads = model.mixer.heads(model.d_model)
    keys = 2 * number * rows * recipe.data.seq_len * heads.n_kv_heads * heads.head_dim / axes.tensor
    traffic = {
        "shard": (n_micro * (blocks + again + others) + reduced) * (split - 1) / split,
        "replicate": 2 * reduced / split * (axes.replicate - 1) / axes.replicate,
        # Two branches a block, each gathered before and scattered after it, and both again backward.
        "tensor": 8 * model.n_layers * stream * (axes.tensor - 1) / axes.tensor,
        "context": 2 * model.n_layers * keys * (axes.context - 1) / axes.context,
    }
    return {axis: size for axis, size in traffic.items() if size}

"""The memory of one rank, by part, at the worst of four moments.

With P numbers of weights split over s ranks and by tensor over t, L blocks that keep K bytes each:

loss              4P/st weights + 8P/st moments + L K + the head's and the loss's own
last block        the same activations + that block's backward pass + the head's gradient
first block       one block's activations + its backward pass + all other gradients
embedding         weights, moments, gradients, and the embedding's gradient once more where it is accumulated

With several ranks, FSDP2's gathered weights and buffers come on top, by the units of `isogloss.parallel.fsdp`: the
weights of two (one used, one fetched) in the type they are gathered in and a third on its way, a unit's gradients
before they are split, and the head and a small embedding, whose gradients are split last. With accumulation every rank
adds up whole gradients until the last micro-batch's are split. Tensor and context ranks are taken to share activations
evenly.
"""

from dataclasses import dataclass

from isogloss.parallel.mesh import Axes
from isogloss.parallel.recompute import recompute_blocks
from isogloss.recipe import Recipe
from isogloss.run.estimate.activations import block_memory, loss_memory
from isogloss.run.estimate.sizes import Sizes


@dataclass(frozen=True)
class Memory:
    """Bytes of a rank by part at its worst moment."""

    moment: str
    parts: dict[str, float]

    @property
    def total(self) -> float:
        """All parts."""
        return sum(self.parts.values())


def estimate_memory(recipe: Recipe, axes: Axes, sizes: Sizes) -> Memory:
    """Of one rank, at its worst moment."""
    model, train = recipe.model, recipe.train
    rows = train.largest_batch // axes.data
    micro = min(train.micro_batch_size or rows, rows)
    accumulated = micro < rows
    shares = axes.tensor * axes.context
    block = block_memory(
        model,
        micro,
        recipe.data.seq_len,
        sizes.precision,
        documents=recipe.data.cut().within_document,
        gathered=sizes.split,
        prepare=lambda made: recompute_blocks(made, train.recompute),
    )
    n_tokens = micro * recipe.data.seq_len // axes.context
    stream = 4.0 * n_tokens * model.d_model / axes.tensor
    kept, backward = block.kept / shares, block.backward / shares
    n_layers, stored = model.n_layers, sizes.stored
    loss = loss_memory(model, n_tokens, sizes.precision, axes.tensor, device="cpu" if train.device == "cpu" else "cuda")
    moments_of_weight = 0.5 if recipe.optim.moments == "bf16" else 1.0
    always = {"weights": stored(sizes.total), "optimizer": 2 * moments_of_weight * stored(sizes.total)}
    # Reduced with the last micro-batch only: until then every rank adds up whole gradients, in the type of reduction.
    added_up = sizes.reduced * sizes.total if accumulated and sizes.split else 0.0
    grown = sizes.total if accumulated and not sizes.split else 0.0
    activations = block.shared + n_layers * kept + 2 * stream  # the last output, and its norm's
    # Gathered and not let go: what belongs to no block; the blocks, or their last unit, until their backward pass.
    held = sizes.gathered_rest
    kept_blocks = n_layers * sizes.gathered_block if recipe.parallel.reshard == "never" else sizes.gathered_unit
    passing = held + sizes.passing_unit
    moments = {
        "the loss": always
        | {
            "gradients": stored(grown) + added_up,
            "activations": activations,
            "head and loss": loss,
            "communication": held + kept_blocks,
        },
        "the last block's backward pass": always
        | {
            "gradients": stored(max(grown, 0.0 if sizes.split else sizes.head)) + added_up,
            "activations": activations - 2 * stream + backward,
            "communication": passing + max(0.0, kept_blocks - sizes.gathered_unit) + sizes.gradient_of_head,
        },
        "the first block's backward pass": always
        | {
            "gradients": stored(max(grown, sizes.total - sizes.embedding - sizes.block)),
            "activations": block.shared + kept + backward,
            "communication": passing + sizes.gradient_of_head,
        },
        "the embedding's backward pass": always
        | {
            "gradients": stored(sizes.total) + (stored(sizes.embedding) if accumulated and not sizes.split else 0.0),
            "activations": block.shared + stream,
            "communication": held + (8.0 * sizes.embedding / axes.tensor + sizes.gradient_of_head) * sizes.split,
        },
    }
    moment, parts = max(moments.items(), key=lambda item: sum(item[1].values()))
    return Memory(moment, {name: size for name, size in parts.items() if size})

"""What a run works with."""

from dataclasses import dataclass

import torch

from isogloss.data.corpus import Corpus
from isogloss.data.loader import Loader
from isogloss.models.decoder import Decoder
from isogloss.parallel.context import RankBatches
from isogloss.parallel.env import Ranks
from isogloss.parallel.mesh import Layout
from isogloss.recipe import Recipe
from isogloss.run.folder import RunFolder
from isogloss.train.guard import SpikeGuard
from isogloss.train.hooks import Window
from isogloss.train.loop import Progress
from isogloss.train.machine import Machine
from isogloss.train.size import RunSize
from isogloss.train.watchdog import Watchdog


@dataclass
class Session:
    """The parts of a run, ready for its next step; ``progress`` says which.

    ``layout`` says how ``ranks`` share the model and the batches; ``None`` for a process that is alone.
    ``initial`` is the fingerprint of the weights it began with; ``None`` if it was begun by a version that kept none.
    ``n_records`` is how many the metrics had at the checkpoint that it goes on from, if that says so;
    ``n_settled`` of them were of earlier steps, or of rewinds.
    """

    recipe: Recipe
    folder: RunFolder
    corpus: Corpus
    machine: Machine
    model: Decoder
    optimizer: torch.optim.Optimizer
    loader: Loader
    progress: Progress
    window: Window
    size: RunSize
    guard: SpikeGuard
    ranks: Ranks
    watchdog: Watchdog
    layout: Layout | None
    initial: dict[str, str] | None = None
    n_records: int | None = None
    n_settled: int | None = None

    @property
    def batches(self) -> Loader | RankBatches:
        """Of every step, what this process trains on."""
        return self.loader if self.layout is None else RankBatches(self.loader, self.layout)

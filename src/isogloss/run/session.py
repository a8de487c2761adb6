"""What a run works with."""

from dataclasses import dataclass

import torch

from isogloss.data.loader import Loader
from isogloss.data.prepared import PreparedCorpus
from isogloss.models.decoder import Decoder
from isogloss.recipe import Recipe
from isogloss.run.folder import RunFolder
from isogloss.train.estimate import Estimate
from isogloss.train.guard import SpikeGuard
from isogloss.train.hooks import Window
from isogloss.train.loop import Progress
from isogloss.train.machine import Machine


@dataclass
class Session:
    """The parts of a run, ready for its next step; ``progress`` says which.

    ``initial`` is the fingerprint of the weights it began with; ``None`` if it was begun by a version that kept none.
    """

    recipe: Recipe
    folder: RunFolder
    corpus: PreparedCorpus
    machine: Machine
    model: Decoder
    optimizer: torch.optim.Optimizer
    loader: Loader
    progress: Progress
    window: Window
    estimate: Estimate
    guard: SpikeGuard
    initial: dict[str, str] | None = None

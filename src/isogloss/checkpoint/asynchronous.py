"""Saving while the training goes on.

``save`` copies what this rank has to write into memory of the CPU and returns; a thread writes it, with a group of its
own for its messages. One checkpoint is in flight at most: the next save waits for it. ``poll``, called between steps,
finds on all ranks at the same step that it is there, or raises on all of them what went wrong. A process killed in
flight leaves a temporary folder that the next run sweeps: the checkpoint before it is the newest.
"""

import json
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from isogloss.checkpoint.config import CheckpointConfig
from isogloss.checkpoint.peers import join_peers
from isogloss.checkpoint.plan import OwnPiece, Parts, SharedPlan
from isogloss.checkpoint.save import Draft, Reached, prepare, unheard, write

_PATIENCE = 30.0  # seconds for a write in flight when the run has failed and peers may be gone


class Saver:
    """Writes the checkpoints of a run. Collective, as are all of its methods. Use it as a context.

    Args:
        root: the folder that holds the run's checkpoints.
        config: when they are written, how, and which are kept.
        reached: hears of each point of the protocol; from another thread if asynchronous.
        patience: how long a rank waits for the others' files, as of `join_peers`.
        watched: a context around what the thread does, told what that is: whoever watches the run has the place.
        schema: of the states, as of `load_checkpoint`.
    """

    def __init__(
        self,
        root: Path,
        config: CheckpointConfig,
        reached: Reached = unheard,
        patience: timedelta | None = None,
        watched: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext(),
        schema: type[BaseModel] | None = None,
    ) -> None:
        self._root, self._config, self._reached, self._watched = root, config, reached, watched
        self._schema = schema
        self._peers, self._between_steps = join_peers(patience), join_peers(patience)
        self._copies: dict[tuple[str, str], Tensor] = {}
        self._plan: SharedPlan | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(self, step: int, parts: Parts, state: Mapping[str, Any]) -> None:
        """Save, or begin to; tensors may change as soon as it returns.

        Raises:
            SaveFailedError: no checkpoint could be written, this one or the one that was in flight.
        """
        self.finish()
        draft = prepare(self._root, step, parts, self._peers, self._reached, self._plan, self._schema)
        if draft is None:
            return
        self._plan = draft.plan
        text = json.dumps(state, indent=1)
        if not self._config.asynchronous:
            write(draft, draft.plan.own, text, self._config, self._peers, self._reached)
            return
        copies = self._copy(draft.plan.own)
        self._thread = threading.Thread(target=self._write, args=(draft, copies, text), daemon=True)
        self._thread.start()

    def poll(self) -> None:
        """Between steps: raise, on all ranks at the same step, if the save in flight has failed; never waits for it."""
        if self._thread is not None and self._between_steps.all(not self._thread.is_alive()):
            self.finish()

    def finish(self) -> None:
        """Wait for the save in flight.

        Raises:
            SaveFailedError: it failed.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.finish()
        elif self._thread is not None and not issubclass(kind, KeyboardInterrupt):  # which means: at once
            self._thread.join(_PATIENCE)  # what it would raise matters less than the error that is on its way

    def _write(self, draft: Draft, own: list[OwnPiece], state: str) -> None:
        try:
            with self._watched(f"writing the checkpoint of step {draft.step}"):
                write(draft, own, state, self._config, self._peers, self._reached)
        except BaseException as failure:  # raised where the run can hear it
            self._failure = failure

    def _copy(self, own: list[OwnPiece]) -> list[OwnPiece]:
        """Copies on the CPU, in memory that is used again for each save."""
        copied = []
        for piece in own:
            place = (piece.file, piece.key)
            copy, source = self._copies.get(place), piece.tensor
            if copy is None or copy.shape != source.shape or copy.dtype != source.dtype:
                copy = torch.empty(source.shape, dtype=source.dtype, pin_memory=source.is_cuda)
                self._copies[place] = copy
            copy.copy_(source, non_blocking=True)
            copied.append(OwnPiece(piece.file, piece.key, copy))
        if any(piece.tensor.is_cuda for piece in own):
            torch.cuda.synchronize()
        return copied

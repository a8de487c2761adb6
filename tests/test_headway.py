"""Long work says that it gets on, piece by piece; else a watchdog would take slow ranks for stuck ones."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from isogloss.checkpoint.config import CheckpointConfig
from isogloss.checkpoint.load import newest_checkpoint
from isogloss.checkpoint.save import save_checkpoint
from isogloss.data.rows.fitting import make_table
from isogloss.data.shards import TokenStream
from isogloss.durable import hash_file
from isogloss.evaluate.loss import evaluate_batches
from isogloss.headway import headway
from isogloss.init.apply import initialise
from isogloss.init.fingerprint import fingerprint
from isogloss.init.plan import plan_init
from isogloss.init.schemes import LinguaConfig
from isogloss.models.protocol import Batch
from isogloss.parallel.whole import whole_tensors

N_TENSORS = 5
PARTS = {"model": {f"w{number}": torch.zeros(3) for number in range(N_TENSORS)}}
TOKENS = torch.zeros(4, 8, dtype=torch.int64)


@pytest.fixture
def made() -> Callable[[Callable[[], object]], int]:
    """How many pieces this thread says it has done in a call."""

    def count(action: Callable[[], object]) -> int:
        before = headway(threading.get_ident())
        action()
        return headway(threading.get_ident()) - before

    return count


def test_checkpoints_tensor_by_tensor(made, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"some")
    assert made(lambda: hash_file(file)) == 1
    # Written, and read back as a whole, with its index, before it is announced.
    assert made(lambda: save_checkpoint(tmp_path, 1, PARTS, {}, CheckpointConfig())) >= N_TENSORS + 1
    found = newest_checkpoint(tmp_path, pytest.fail)
    assert found is not None
    assert made(lambda: found.load_into("model", PARTS["model"])) == N_TENSORS


def test_models_weight_by_weight(made, make_decoder) -> None:
    model = make_decoder()
    plan = plan_init(model, LinguaConfig(), model.config)
    n_weights = len(list(model.parameters()))
    n_drawn = sum(weight.ndim == 2 for weight in model.parameters())
    assert made(lambda: initialise(model, plan, seed=0)) == n_drawn
    assert made(lambda: fingerprint(model)) == n_weights
    assert made(lambda: whole_tensors(model, keep=False)) == n_weights


def test_validation_and_packing(made, make_decoder) -> None:
    model, batches = make_decoder(), Batch(TOKENS, TOKENS).split(1)
    assert made(lambda: evaluate_batches(model, batches, precision="fp32", bytes_per_token=None)) == 4
    stream = TokenStream([np.zeros(40, np.uint16)], np.arange(0, 40, 5), "x")
    assert made(lambda: make_table(stream, "document", 8, window=2)) == 4

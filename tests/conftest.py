"""What several rooms' tests share: a tiny decoder with weights far from the symmetric start, and a tiny run."""

import faulthandler
import os
import random
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

import shape_checks  # noqa: F401 (before the library)

# PyTorch and the library are imported where they are needed: the process that hands out tests to workers, and makes
# them wait until it has read this file, needs neither.
if TYPE_CHECKING:
    from isogloss.models.decoder import Decoder

os.environ["HF_HUB_OFFLINE"] = "1"
# Ignored under nohup and in the background of a shell; what tests start would ignore them too.
for number, handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)
if "PYTEST_XDIST_WORKER" in os.environ:
    import torch

    torch.set_num_threads(1)  # workers whose threads wait for each other's cores are many times slower than one thread
# Few cases of each property by default, the same each time, so that the suite is quick and nothing hangs on luck; in
# a campaign many times as many, drawn anew. How long drawing takes says how busy the machine is.
settings.register_profile(
    "isogloss",
    max_examples=40 * int(os.environ.get("ISOGLOSS_FAULTS", "1")),
    deadline=None,
    derandomize="ISOGLOSS_FAULTS" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("isogloss")
STDERR = pytest.StashKey[int]()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests for GPUs are skipped where there are too few."""
    if (marker := item.get_closest_marker("gpu")) is not None:
        import torch

        needed = marker.args[0] if marker.args else 1
        if torch.cuda.device_count() < needed:
            pytest.skip(f"needs {needed} CUDA devices")


# Far more than any test takes on a busy machine; a campaign's are longer, and have no such limit.
LIMIT = 900


def pytest_configure(config: pytest.Config) -> None:
    """Keep the real standard error: in tests another stands in its place."""
    config.stash[STDERR] = os.dup(2)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test that waits for ever says where, thread by thread, and ends its process: xdist then names the test."""
    if "ISOGLOSS_FAULTS" in os.environ:
        return (yield)
    faulthandler.dump_traceback_later(LIMIT, exit=True, file=item.config.stash[STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


MakeDecoder = Callable[..., "Decoder"]


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """What a killed process wrote survives it without; a power cut is not tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def make_decoder() -> MakeDecoder:
    """``make_decoder(mixer={...}, ...)``: 2 layers of width 32; norms' gains differ from 1, logits are of order 1."""
    import torch

    from isogloss.build import build_model
    from isogloss.init.schemes import LinguaConfig
    from isogloss.models.decoder import DecoderConfig

    def make(*, mixer: dict | None = None, seed: int = 0, **fields) -> "Decoder":
        defaults = {"d_model": 32, "n_layers": 2, "vocab_size": 50, "ffn": {"type": "swiglu", "d_ff": 48}}
        config = DecoderConfig.model_validate({**defaults, **fields, "mixer": {"n_heads": 4, **(mixer or {})}})
        model = build_model(config, LinguaConfig(), seed=seed, device=torch.device("cpu"))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.uniform_(0.5, 1.5, generator=generator)
        return model

    return make


TINY = """\
name: tiny
seed: 3
runs_dir: {root}/runs
data:
  type: files
  train: [{root}/corpus]
  seq_len: 24
  validation_bytes: 400
  prepared_dir: {root}/prepared
tokenizer:
  type: bytes
model:
  type: decoder
  d_model: 16
  n_layers: 2
  mixer: {{type: attention, n_heads: 2}}
  ffn: {{type: swiglu, d_ff: 24}}
optim:
  lr: 0.01
  schedule: {{type: cosine, warmup: 2}}
train:
  steps: 10
  batch_size: 4
  device: cpu
  precision: fp32
  compile: "off"
watch:
  log_every: 1
  validate_every: 4
  validation_rows: 8
  sample_every: 6
  sample_tokens: 8
checkpoint:
  every: 3
"""


def write_tiny(root: Path) -> Path:
    """Write a tiny recipe and its corpus of made-up documents; prepared data and runs go beside them."""
    generator = random.Random(0)
    (root / "corpus").mkdir()
    for number in range(60):
        words = generator.choices(["def", "if", "else", "return", "self", "print", "for", "in", "range"], k=24)
        (root / f"corpus/{number:03d}.txt").write_text(" ".join(words) + f"\n# document {number}\n")
    path = root / "tiny.yaml"
    path.write_text(TINY.format(root=root))
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The file of a tiny recipe in an empty folder."""
    return write_tiny(tmp_path)


@pytest.fixture(scope="session")
def tiny_factory() -> Callable[[Path], Path]:
    """``write_tiny``, for fixtures that live longer than a test."""
    return write_tiny


@pytest.fixture
def one_thread() -> Iterator[None]:
    """What is computed here has the bits of a process with ``OMP_NUM_THREADS=1``."""
    import torch

    former = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(former)


@pytest.fixture
def call(capfd, monkeypatch) -> Callable[..., tuple[int, str, str]]:
    """Run ``isogloss`` with some words in this process; gives exit code, output and errors."""
    from isogloss import cli

    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["isogloss", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run

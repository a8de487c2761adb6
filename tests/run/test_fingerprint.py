"""Where the weights that a run began with are made again."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from isogloss.run.fingerprint import device_of
from isogloss.run.folder import RunFolder
from isogloss.train.display import Display
from isogloss.train.machine import Machine


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_weights_are_made_where_the_run_trains(tmp_path: Path, monkeypatch, device: str) -> None:
    machine = replace(Machine("cpu", "", "fp32", False, 1, ""), device=device)
    RunFolder(tmp_path).save_json("machine.json", machine.as_dict())
    console = Console(record=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of(tmp_path, Display(console)) == device
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(tmp_path, Display(console)) == "cpu"
    assert ("last places may differ" in console.export_text()) == (device == "cuda")

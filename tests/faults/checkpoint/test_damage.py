"""Checkpoints that were damaged, forged or swapped: refused by a message that names the file, and the one before taken.

Each guard has its control: with it taken out, the damage is not noticed. ``ISOGLOSS_FAULTS`` scales the random trials.
"""

import json
import os
import pickle
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import checkpoint_jobs as jobs
import isogloss.checkpoint.layout as layout
import isogloss.checkpoint.load as load
import ranks
from isogloss.checkpoint.layout import CorruptCheckpointError
from isogloss.checkpoint.load import load_checkpoint, newest_checkpoint

FAULTS = int(os.environ.get("ISOGLOSS_FAULTS", "2"))
SHARD = "model-00002-of-00002.safetensors"
ONE, TWO = "step-0000000001", "step-0000000002"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    """``run`` and ``other``: steps 1 and 2, saved by two ranks; the other run has other weights."""
    root = tmp_path_factory.mktemp("saved")
    ranks.run(jobs.save_steps, 2, str(root / "run"), [1, 2])
    ranks.run(jobs.save_steps, 2, str(root / "other"), [1, 2], 0.5)
    return root


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


def weights(folder: Path) -> torch.Tensor:
    """What a checkpoint gives when it is loaded, verified first."""
    return load_checkpoint(folder).tensors("model")["w"]


def is_noticed(folder: Path) -> bool:
    """Whether loading refuses, or at least gives what was saved."""
    try:
        found = weights(folder)
    except CorruptCheckpointError:
        return True
    return torch.equal(found, torch.arange(64.0).reshape(16, 4) + 100 * int(folder.name[-1]))


def check_refused(root: Path, name: str, words: str = "") -> None:
    """Step 2 is refused by name, and step 1 taken."""
    warnings: list[str] = []
    found = newest_checkpoint(root, warnings.append)
    assert found is not None
    assert found.step == 1
    assert len(warnings) == 1
    assert str(root / TWO / name) in warnings[0]
    assert words in warnings[0]


@pytest.mark.campaign(9)
def test_any_flipped_bit_of_any_file(root: Path, capsys) -> None:
    generator = random.Random(0)
    trials = 0
    for path in sorted((root / TWO).iterdir()):
        data = path.read_bytes()
        for _ in range(10 * FAULTS):
            trials += 1
            flipped = bytearray(data)
            flipped[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
            path.write_bytes(bytes(flipped))
            assert is_noticed(root / TWO)
            if path.name != "manifest.json":  # of which white space says nothing
                check_refused(root, path.name)
        path.write_bytes(data)
    assert newest_checkpoint(root, pytest.fail).step == 2
    with capsys.disabled():
        print(f"\n{trials} flipped bits in {len(list((root / TWO).iterdir()))} files, {trials} noticed")


@pytest.mark.campaign(9)
def test_any_truncation_and_any_missing_file(root: Path, capsys) -> None:
    generator = random.Random(0)
    trials = 0
    for path in sorted((root / TWO).iterdir()):
        data = path.read_bytes()
        for length in [0, 1, len(data) - 1, *(generator.randrange(len(data)) for _ in range(5 * FAULTS))]:
            trials += 1
            path.write_bytes(data[:length])
            check_refused(root, path.name)
        path.unlink()
        check_refused(root, path.name, "missing")
        path.write_bytes(data)
    assert newest_checkpoint(root, pytest.fail).step == 2
    with capsys.disabled():
        print(f"\n{trials} truncations, {trials} refused")


@pytest.mark.control(9)
def test_without_checksums_a_flipped_bit_would_be_loaded(root: Path, monkeypatch) -> None:
    """The control."""
    path = root / TWO / SHARD
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(bytes(data))
    assert is_noticed(root / TWO)
    meant = layout.Manifest.model_validate_json((root / TWO / "manifest.json").read_bytes()).files
    monkeypatch.setattr(load, "hash_file", lambda path: meant[path.name].sha256)
    assert not is_noticed(root / TWO)


@pytest.mark.campaign(9)
@pytest.mark.parametrize("whose", ["other/" + TWO, "run/" + ONE, "other/" + ONE])
def test_a_shard_of_another_run_or_step(root: Path, whose: str) -> None:
    shutil.copy(root.parent / whose / SHARD, root / TWO / SHARD)
    check_refused(root, SHARD)


@pytest.mark.campaign(20)
@pytest.mark.control(20)
def test_a_shard_of_another_step_with_a_manifest_made_to_fit(root: Path, monkeypatch) -> None:
    shutil.copy(root / ONE / SHARD, root / TWO / SHARD)
    jobs.manifest_anew(root / TWO)
    check_refused(root, SHARD, "is of step 1, not 2: it is another's")
    monkeypatch.setattr(load, "_check_header", lambda *rest: None)  # the control
    assert not is_noticed(root / TWO)


@pytest.mark.campaign(20)
@pytest.mark.control(20)
def test_a_folder_under_the_name_of_another_step(root: Path, monkeypatch) -> None:
    shutil.rmtree(root / TWO)
    shutil.copytree(root / ONE, root / TWO)
    check_refused(root, "manifest.json", "is of step 1, its folder of step 2")
    for name in ("manifest.json", "index.json"):
        path = root / TWO / name
        path.write_text(path.read_text().replace('"step": 1', '"step": 2').replace('"step":1', '"step":2'))
    jobs.manifest_anew(root / TWO)
    check_refused(root, "model-00001-of-00002.safetensors", "another's")
    monkeypatch.setattr(load, "_check_header", lambda *rest: None)  # the control
    assert not is_noticed(root / TWO)


@pytest.mark.campaign(9)
def test_the_old_format(root: Path) -> None:
    path = root / TWO / "manifest.json"
    path.write_text(json.dumps({"format": 1, "files": {"state.json": {"size": 2, "sha256": ""}}}))
    check_refused(root, "manifest.json", "format 1, this version reads 2")


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.campaign(20)
@pytest.mark.control(20)
@pytest.mark.parametrize(
    "name", [".metadata", "__0.metadata", "optimizer.pt", "model.pth", "pytorch_model.bin", "__0_0.distcp"]
)
def test_no_pickle_is_read(root: Path, tmp_path: Path, monkeypatch, name: str) -> None:
    canary = tmp_path / "canary"
    data = pickle.dumps({"state": Canary(canary)})
    (root / TWO / name).write_bytes(data)
    check_refused(root, name, "is a pickle, which runs whatever code it holds")
    # As the whole of the folder too, and in the place of files that are read.
    for other in (*(p.name for p in (root / ONE).iterdir()), "manifest.json"):
        (root / TWO / name).unlink(missing_ok=True)
        (root / TWO / other).write_bytes(data)
        jobs.manifest_anew(root / TWO) if other != "manifest.json" else None
        check_refused(root, "")
        shutil.copy(root / ONE / other, root / TWO / other)
    shutil.rmtree(root / TWO)
    (root / TWO).mkdir()
    (root / TWO / name).write_bytes(data)
    check_refused(root, name)
    assert not canary.exists()
    pickle.loads(data)  # the controls: the canary is alive, and the refusal is not by chance
    assert canary.exists()
    shutil.rmtree(root / TWO)
    shutil.copytree(root.parent / "other" / TWO, root / TWO)
    (root / TWO / name).write_bytes(data)
    monkeypatch.setattr(load, "refuse_pickles", lambda folder: None)
    load_checkpoint(root / TWO)


@pytest.mark.control(20)
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_pytorch_s_own_loader_would_run_it(tmp_path: Path) -> None:
    """Why its metadata is not read, and a control of the canary."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    (tmp_path / ".metadata").write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    with pytest.raises(CheckpointException):
        dcp.load({"w": torch.zeros(1)}, checkpoint_id=tmp_path, no_dist=True)
    assert (tmp_path / "canary").exists()


@pytest.mark.campaign(20)
@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "..", "a/../../secret.json", "x\x00.json"])
def test_names_that_lead_out_of_the_folder(root: Path, monkeypatch, name: str) -> None:
    path = root / TWO / "manifest.json"
    values = json.loads(path.read_text())
    values["files"][name] = {"size": 1, "sha256": ""}
    path.write_text(json.dumps(values))
    check_refused(root, "manifest.json", "outside its folder")


@pytest.mark.campaign(20)
@pytest.mark.control(20)
def test_an_index_that_leads_out_of_the_folder(root: Path, monkeypatch) -> None:
    target = root / "secret.safetensors"
    shutil.copy(root.parent / "other" / TWO / SHARD, target)
    path = root / TWO / "index.json"
    path.write_text(path.read_text().replace(SHARD, "../secret.safetensors"))
    jobs.manifest_anew(root / TWO)
    check_refused(root, "index.json", "lists no file '../secret.safetensors'")
    monkeypatch.setattr(layout, "_flaw", lambda *rest: None)  # the control: nothing else looks at it
    monkeypatch.setattr(load, "_check_header", lambda *rest: None)
    assert not is_noticed(root / TWO)


@pytest.mark.campaign(20)
def test_links_and_pipes_in_the_place_of_files(root: Path) -> None:
    path = root / TWO / SHARD
    path.unlink()
    path.symlink_to(root.parent / "other" / TWO / SHARD)
    check_refused(root, SHARD, "not a plain file")
    path.unlink()
    os.mkfifo(path)
    check_refused(root, SHARD, "not a plain file")


def header(change: Callable[[dict], None]) -> Callable[[bytes], bytes]:
    """A safetensors file with another header."""

    def changed(data: bytes) -> bytes:
        length = struct.unpack("<Q", data[:8])[0]
        values = json.loads(data[8 : 8 + length])
        change(values)
        text = json.dumps(values).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]

    return changed


def entry(values: dict) -> dict:
    return next(value for key, value in values.items() if key != "__metadata__")


HEADERS: dict[str, Callable[[bytes], bytes]] = {
    "longer than any memory": lambda data: struct.pack("<Q", 1 << 62) + data[8:],
    "longer than the file": lambda data: struct.pack("<Q", len(data)) + data[8:],
    "of no length": lambda data: struct.pack("<Q", 0) + data[8:],
    "no JSON": lambda data: data[:8] + b"\xff" * 16 + data[24:],
    "deeply nested": lambda data: struct.pack("<Q", 200_000) + b"[" * 200_000,
    "two tensors in one place": header(lambda values: values.update(v=entry(values))),
    "beyond the end": header(lambda values: entry(values).update(data_offsets=[0, 1 << 40])),
    "from end to start": header(lambda values: entry(values).update(data_offsets=[128, 0])),
    "a shape too large": header(lambda values: entry(values).update(shape=[1 << 40, 1 << 40])),
    "an unknown type": header(lambda values: entry(values).update(dtype="F7")),
    "another type of the same size": header(lambda values: entry(values).update(dtype="I32")),
    "another shape of the same size": header(lambda values: entry(values).update(shape=[4, 8])),
}


@pytest.mark.campaign(20)
@pytest.mark.control(20)
@pytest.mark.parametrize("name", HEADERS)
def test_absurd_headers_with_a_manifest_made_to_fit(root: Path, monkeypatch, name: str) -> None:
    path = root / TWO / SHARD
    path.write_bytes(HEADERS[name](path.read_bytes()))
    jobs.manifest_anew(root / TWO)
    check_refused(root, SHARD)
    monkeypatch.setattr(load, "_check_header", lambda *rest: None)  # the control: checksums do not help here
    load_checkpoint(root / TWO)


INDICES: dict[str, Callable[[dict], None]] = {
    "a gap": lambda w: w["pieces"].pop(),
    "an overlap": lambda w: w["pieces"][1].update(offsets=[4, 0]),
    "out of bounds": lambda w: w["pieces"][1].update(offsets=[9, 0]),
    "a negative place": lambda w: w["pieces"][0].update(offsets=[-8, 0]),
    "a huge shape": lambda w: w.update(shape=[1 << 60, 4]),
    "another type": lambda w: w.update(dtype="I32"),
    "an unknown type": lambda w: w.update(dtype="pickle"),
    "of too few dimensions": lambda w: w["pieces"][0].update(offsets=[0], sizes=[32]),
    "a piece twice": lambda w: w["pieces"].__setitem__(1, w["pieces"][0]),
    "texts for numbers": lambda w: w.update(shape=["16", "4"]),
    "an unknown field": lambda w: w.update(reduce="os.system"),
}


@pytest.mark.campaign(20)
@pytest.mark.parametrize("name", INDICES)
def test_a_forged_index_with_a_manifest_made_to_fit(root: Path, name: str) -> None:
    path = root / TWO / "index.json"
    values = json.loads(path.read_text())
    INDICES[name](values["parts"]["model"]["w"])
    path.write_text(json.dumps(values))
    jobs.manifest_anew(root / TWO)
    warnings: list[str] = []
    found = newest_checkpoint(root, warnings.append)
    assert found is not None
    assert found.step == 1
    assert "index.json" in warnings[0]


@pytest.mark.control(20)
def test_without_the_check_of_pieces_a_gap_would_be_loaded(root: Path, monkeypatch) -> None:
    """The control."""
    path = root / TWO / "index.json"
    values = json.loads(path.read_text())
    values["parts"]["model"]["w"]["pieces"].pop()
    path.write_text(json.dumps(values))
    jobs.manifest_anew(root / TWO)
    assert is_noticed(root / TWO)
    monkeypatch.setattr(layout, "_flaw", lambda *rest: None)
    monkeypatch.setattr(load, "_check_header", lambda *rest: None)
    torch.use_deterministic_algorithms(True)  # memory that nothing fills is NaN then, not what was there before
    try:
        assert not is_noticed(root / TWO)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.campaign(20)
@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b"null", b"[]", b'{"format": 2}', b"{}" * 2, b"\xff\xfe", b'{"format": true}']
)
@pytest.mark.parametrize("name", ["manifest.json", "index.json", "state.json"])
def test_lists_that_are_none(root: Path, name: str, data: bytes) -> None:
    (root / TWO / name).write_bytes(data)
    if name != "manifest.json":
        jobs.manifest_anew(root / TWO)
    if name != "state.json" or not data.startswith(b'{"'):  # which is as good a state as any
        check_refused(root, name)

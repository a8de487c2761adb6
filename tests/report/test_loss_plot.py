"""The loss curve is a picture whatever has been recorded."""

from pathlib import Path

import pytest
from matplotlib.image import imread

from isogloss.report.loss import plot_loss

BASELINES = {"gzip": 2.5, "xz": 2.1}
TRAIN = [{"step": s, "kind": "train", "tokens": 100 * s, "bits_per_byte": 8.0 / s} for s in range(1, 9)]
VALIDATION = [{"step": s, "kind": "validation", "tokens": 100 * s, "bits_per_byte": 7.0 / s} for s in (3, 6, 8)]
SAMPLE = [{"step": 8, "kind": "sample", "prompt": "", "text": "def"}]
NOT_FINITE = [
    {"step": 9, "kind": "train", "tokens": 900, "bits_per_byte": None},
    {"step": 9, "kind": "validation", "tokens": 900, "bits_per_byte": None},
]


def draw(path: Path, records: list[dict], baselines: dict[str, float] = BASELINES):
    plot_loss(records, baselines, "a run", path)
    assert path.read_bytes().startswith(b"\x89PNG")
    return imread(path)


@pytest.mark.parametrize(
    "records",
    [
        TRAIN + VALIDATION + SAMPLE,
        [],
        TRAIN,
        VALIDATION,
        VALIDATION[:1],
        TRAIN + NOT_FINITE[:1] + VALIDATION,
        TRAIN + NOT_FINITE,
    ],
    ids=["all", "none", "no validation", "no training", "one validation", "one skipped", "validation not finite"],
)
@pytest.mark.parametrize("baselines", [BASELINES, {}], ids=["compressors", "no compressors"])
def test_it_is_a_picture(tmp_path: Path, records: list[dict], baselines: dict[str, float]) -> None:
    height, width = draw(tmp_path / "loss.png", records, baselines).shape[:2]
    assert 500 < height < width


def test_every_part_is_drawn(tmp_path: Path) -> None:
    whole = draw(tmp_path / "whole.png", TRAIN + VALIDATION)
    parts = {
        "training": draw(tmp_path / "a.png", VALIDATION),
        "first validations": draw(tmp_path / "b.png", TRAIN + VALIDATION[-1:]),
        "the last validation": draw(tmp_path / "c.png", TRAIN + VALIDATION[:-1]),
        "a compressor": draw(tmp_path / "d.png", TRAIN + VALIDATION, {"gzip": 2.5}),
    }
    for part, without in parts.items():
        assert (whole != without).any(), part
    assert (whole == draw(tmp_path / "again.png", TRAIN + VALIDATION + SAMPLE)).all()

"""The loss curve is a picture whatever has been recorded."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure
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


@pytest.fixture
def axes(monkeypatch, tmp_path: Path):
    """Draw records; gives the axes."""
    figures = []
    original = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), original(self, *a, **k))[1])

    def drawn(records: list[dict], baselines: dict[str, float] = BASELINES):
        draw(tmp_path / "axes.png", records, baselines)
        return figures[-1].axes[0]

    return drawn


def test_the_legend_has_no_entry_without_a_line(axes) -> None:
    legend = axes(TRAIN + VALIDATION[-1:]).get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["training", "validation"]
    assert axes([]).get_legend() is None


def test_labels_of_near_lines_stand_on_their_two_sides(axes) -> None:
    sides = {text.get_text(): text.get_va() for text in axes(TRAIN + VALIDATION, {"gzip": 1.78, "xz": 1.73}).texts}
    assert sides == {"gzip -9": "bottom", "xz -9": "top"}


def test_a_first_loss_within_reach_is_not_cut_off(axes) -> None:
    first = [{"step": 1, "kind": "train", "tokens": 0, "bits_per_byte": 3.6}]
    assert axes(first + VALIDATION[-1:], {"xz": 1.73}).get_ylim()[1] > 3.6
    drawn = [line for line in axes(VALIDATION).get_lines() if str(line.get_label()).startswith("validation")]
    assert [line.get_clip_on() for line in drawn] == [False, False]


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

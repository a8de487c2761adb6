import gzip
import lzma
import shutil
import subprocess

import pytest

from isogloss.data import baselines
from isogloss.data.baselines import measure_baselines

TEXTS = ["the quick brown fox\n" * 50, "é" * 100, "jumps over\n" * 30]


def test_texts_are_compressed_as_one_stream():
    data = "".join(TEXTS).encode()
    found = measure_baselines(TEXTS)
    assert found.gzip_bits_per_byte == 8 * len(gzip.compress(data, 9)) / len(data)
    assert found.xz_bits_per_byte == 8 * len(lzma.compress(data, preset=9)) / len(data)


@pytest.mark.parametrize("tool", ["gzip", "xz"])
def test_the_figures_are_those_of_the_command_line_tools(tool):
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    data = "".join(TEXTS).encode()
    packed = subprocess.run([tool, "-9", "-c"], input=data, capture_output=True, check=True).stdout
    assert getattr(measure_baselines(TEXTS), f"{tool}_bits_per_byte") == pytest.approx(
        8 * len(packed) / len(data), abs=0.05
    )


def test_long_texts_are_measured_by_their_beginning(monkeypatch):
    whole = measure_baselines(["ab" * 500])
    monkeypatch.setattr(baselines, "MEASURED_BYTES", 1000)
    assert measure_baselines(["ab" * 300, "ab" * 300, "never read"]) == whole

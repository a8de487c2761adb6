import gzip
import lzma
import shutil
import subprocess

import pytest

from isogloss.data.baselines import CompressionMeter

TEXTS = ["the quick brown fox\n" * 50, "é" * 100, "jumps over\n" * 30]


def test_texts_pass_by_and_are_counted_as_one_stream():
    meter = CompressionMeter()
    assert list(meter.watch(TEXTS)) == TEXTS
    data = "".join(TEXTS).encode()
    found = meter.finish()
    assert meter.n_bytes == len(data)
    assert found.gzip_bits_per_byte == 8 * len(gzip.compress(data, 9)) / len(data)
    assert found.xz_bits_per_byte == 8 * len(lzma.compress(data, preset=9)) / len(data)


@pytest.mark.parametrize("tool", ["gzip", "xz"])
def test_the_figures_are_those_of_the_command_line_tools(tool):
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    meter = CompressionMeter()
    data = "".join(meter.watch(TEXTS)).encode()
    packed = subprocess.run([tool, "-9", "-c"], input=data, capture_output=True, check=True).stdout
    assert getattr(meter.finish(), f"{tool}_bits_per_byte") == pytest.approx(8 * len(packed) / len(data), abs=0.05)

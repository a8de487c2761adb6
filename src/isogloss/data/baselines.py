"""What general compressors make of the validation text: the figures that a model's bits per byte must beat.

They see the concatenated texts in the order in which the model is validated on them, and nothing of the training split.
"""

import lzma
import zlib
from collections.abc import Iterable

from isogloss.config.stored import Stored

MEASURED_BYTES = 16 << 20


class Baselines(Stored):
    """Compressed size in bits over the text's size in bytes."""

    gzip_bits_per_byte: float
    """``gzip -9``, container included."""
    xz_bits_per_byte: float
    """``xz -9``, container included."""


def measure_baselines(texts: Iterable[str]) -> Baselines:
    """Compress texts end to end, the first 16 MB of them: what comes later changes little and takes minutes."""
    kept: list[bytes] = []
    left = MEASURED_BYTES
    for text in texts:
        kept.append(text.encode()[:left])
        left -= len(kept[-1])
        if left <= 0:
            break
    data = b"".join(kept)
    packer = zlib.compressobj(9, wbits=31)
    gzip_bytes = len(packer.compress(data) + packer.flush())
    # A dictionary no larger than the text finds the same repetitions, in a tenth of the memory.
    dictionary = min(64 << 20, max(4096, 1 << (len(data) - 1).bit_length()))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": dictionary}]
    xz_bytes = len(lzma.compress(data, format=lzma.FORMAT_XZ, filters=filters))
    return Baselines(gzip_bits_per_byte=8 * gzip_bytes / len(data), xz_bits_per_byte=8 * xz_bytes / len(data))

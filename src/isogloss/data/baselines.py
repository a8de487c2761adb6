"""What general compressors make of the validation text: the figures that a model's bits per byte must beat.

They see the concatenated texts in the order in which the model is validated on them, and nothing of the training split.
"""

import lzma
import zlib
from collections.abc import Iterable, Iterator

from isogloss.config.base import Config


class Baselines(Config):
    """Compressed size in bits over the text's size in bytes."""

    gzip_bits_per_byte: float
    """``gzip -9``, container included."""
    xz_bits_per_byte: float
    """``xz -9``, container included."""


class CompressionMeter:
    """Compresses texts that pass by, and counts."""

    def __init__(self) -> None:
        self._gzip = zlib.compressobj(9, wbits=31)
        self._xz = lzma.LZMACompressor(format=lzma.FORMAT_XZ, preset=9)
        self._gzip_bytes = self._xz_bytes = 0
        self.n_bytes = 0

    def watch(self, texts: Iterable[str]) -> Iterator[str]:
        """The same texts, each counted before it is handed on."""
        for text in texts:
            data = text.encode()
            self.n_bytes += len(data)
            self._gzip_bytes += len(self._gzip.compress(data))
            self._xz_bytes += len(self._xz.compress(data))
            yield text

    def finish(self) -> Baselines:
        """The figures for all texts that passed; once, at the end."""
        self._gzip_bytes += len(self._gzip.flush())
        self._xz_bytes += len(self._xz.flush())
        return Baselines(
            gzip_bits_per_byte=8 * self._gzip_bytes / self.n_bytes, xz_bits_per_byte=8 * self._xz_bytes / self.n_bytes
        )

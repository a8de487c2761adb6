"""Text as its tokens arrive: what generation prints."""

import codecs

from isogloss.data.tokenizers.base import Tokenizer


class StreamDecoder:
    """Decodes one id at a time, giving out text as soon as its bytes are whole characters.

    What ``push`` and ``close`` return, joined, equals ``tokenizer.decode`` of all the ids.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._token_bytes = tokenizer.token_bytes
        self._prefix = tokenizer.dummy_prefix
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that is whole now, perhaps none. Raises ``UserError`` for an id that does not exist."""
        data = self._token_bytes(token)
        if data and self._prefix:
            data = data.removeprefix(self._prefix)
            self._prefix = b""
        return self._decoder.decode(data)

    def close(self) -> str:
        """What remains: U+FFFD for a character that was never completed, or nothing."""
        return self._decoder.decode(b"", final=True)

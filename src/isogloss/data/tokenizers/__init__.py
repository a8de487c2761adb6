"""Tokenizers: bytes, byte-level BPE trained here, and those that others made."""

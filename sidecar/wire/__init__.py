"""Bytes to HTTP/2 frames and header blocks, and back. Knows no stream's meaning, does no I/O."""

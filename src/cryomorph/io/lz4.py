"""LZ4 blocks, decompressed: the format of https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from jaxtyping import UInt8

from cryomorph.compute.compiled import compiled

LONG, CONTINUED, LEAST_MATCH, MOST_GROWTH = 15, 255, 4, 255


def decompress(block: bytes, size: int) -> bytes:
    """The `size` bytes that an LZ4 block holds.

    Raises:
        ValueError: the block is damaged, or holds another number of bytes.
    """
    if size > MOST_GROWTH * len(block):
        raise ValueError(f"an LZ4 block of {len(block)} bytes cannot hold {size}")
    out = np.empty(size, np.uint8)
    written = _decompress(np.frombuffer(block, np.uint8), out)
    if written != size:
        raise ValueError(f"an LZ4 block is damaged: {max(written, 0)} of {size} bytes")
    return out.tobytes()


@compiled
@no_type_check
def _length(block: UInt8[np.ndarray, " m"], read: int, nibble: int) -> tuple[int, int]:
    """A length that begins with four bits of a token, and where reading goes on (beyond the block where it is cut)."""
    if nibble < LONG:
        return nibble, read
    while read < len(block):
        more = int(block[read])
        read += 1
        nibble += more
        if more < CONTINUED:
            return nibble, read
    return nibble, len(block) + 1


@compiled
@no_type_check
def _decompress(block: UInt8[np.ndarray, " m"], out: UInt8[np.ndarray, " size"]) -> int:
    """Number of bytes written, -1 where the block is damaged.

    A block is a row of sequences: a token with two lengths, literal bytes, and a match, `distance` bytes back in the
    output; the last sequence has no match.
    """
    read, written = 0, 0
    while read < len(block):
        token = int(block[read])
        count, read = _length(block, read + 1, token >> 4)
        if count > len(block) - read or count > len(out) - written:
            return -1
        for _ in range(count):
            out[written] = block[read]
            written += 1
            read += 1
        if read == len(block):
            return written
        if len(block) - read < 2:
            return -1
        distance = int(block[read]) + 256 * int(block[read + 1])
        count, read = _length(block, read + 2, token & LONG)
        count += LEAST_MATCH
        if read > len(block) or distance == 0 or distance > written or count > len(out) - written:
            return -1
        for _ in range(count):  # one by one: a match may overlap what it writes
            out[written] = out[written - distance]
            written += 1
    return -1

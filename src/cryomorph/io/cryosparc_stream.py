"""cryoSPARC's stream format of .cs files: columns one after another, strings in a heap at the end.

    magic, length of the header (uint32), header (JSON), then for each column its size in bytes (uint32) and its data,
    plain or as an LZ4 block; then the heap: zero-terminated UTF-8, which columns of type `O` index by byte (uint64)

All numbers are little-endian. The tests read files that `cryosparc-tools` wrote.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from jaxtyping import UInt64

MAGIC = b"\x95CSDAT"
STRINGS = "O"


def decode(raw: bytes) -> np.ndarray:
    """The structured array of a stream, its strings as the fixed-length bytes that the numpy format has.

    Raises:
        ValueError: the stream is damaged or of a kind that is not known.
    """
    reader = _Reader(raw, len(MAGIC))
    length, columns, compressed = _header(reader.part())
    stored = {name: reader.part() for name, _ in columns} if length else {}
    heap = raw[reader.at :]
    found = {}
    for name, dtype in columns:
        plain = np.dtype("<u8") if dtype.kind == STRINGS else dtype
        content = stored.get(name, b"")
        if name in compressed and content:
            from cryomorph.io.lz4 import decompress

            content = decompress(content, length * plain.itemsize)
        if len(content) != length * plain.itemsize:
            raise ValueError(f"column {name} has {len(content)} bytes, expected {length * plain.itemsize}")
        values = np.frombuffer(content, plain)
        found[name] = _strings(values, heap, name) if dtype.kind == STRINGS else values
    array = np.empty(length, [(name, found[name].dtype, found[name].shape[1:]) for name, _ in columns])
    for name, values in found.items():
        array[name] = values
    return array


def encode(array: np.ndarray) -> bytes:
    """A structured array as a stream without compression."""
    heap, place = bytearray(b"\0"), {b"": 0}
    columns: list[list[Any]] = []
    content: list[bytes] = []
    for name in array.dtype.names or ():
        values = array[name]
        if values.dtype.kind in "SU":
            texts, inverse = np.unique(values, return_inverse=True)
            at = []
            for text in texts.tolist():
                word = text if isinstance(text, bytes) else text.encode()
                if word not in place:
                    place[word] = len(heap)
                    heap += word + b"\0"
                at.append(place[word])
            columns.append([name, "|O"])
            content.append(np.array(at, "<u8")[inverse.reshape(-1)].tobytes())
        else:
            plain = values.dtype.newbyteorder("<")
            columns.append([name, plain.str, *([list(values.shape[1:])] if values.ndim > 1 else [])])
            content.append(np.ascontiguousarray(values, plain).tobytes())
    header = json.dumps({"length": len(array), "dtype": columns, "compression": None, "compressed_fields": []}).encode()
    parts = [header, *(content if len(array) else [])]
    return MAGIC + b"".join(np.array(len(part), "<u4").tobytes() + part for part in parts) + bytes(heap)


class _Reader:
    """Parts of a stream that are preceded by their length."""

    def __init__(self, raw: bytes, at: int) -> None:
        self.raw, self.at = raw, at

    def part(self) -> bytes:
        start = self.at + 4
        stop = start + int.from_bytes(self.raw[self.at : start], "little")
        if stop > len(self.raw):
            raise ValueError("the file is cut off")
        self.at = stop
        return self.raw[start:stop]


def _header(raw: bytes) -> tuple[int, list[tuple[str, np.dtype[Any]]], frozenset[str]]:
    """Rows, columns and the names of those that are compressed."""
    try:
        header = json.loads(raw)
        length, compression = header["length"], header["compression"]
        columns = [(name, np.dtype((kind, tuple(*shape)))) for name, kind, *shape in header["dtype"]]
        compressed = frozenset(header["compressed_fields"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"its header makes no sense ({error})") from error
    if not isinstance(length, int) or length < 0 or any(dtype.base.kind not in "fciuO" for _, dtype in columns):
        raise ValueError("its header makes no sense")
    if compression not in (None, "lz4"):
        raise ValueError(f"its compression {compression!r} is not known, expected lz4")
    return length, columns, compressed if compression else frozenset()


def _strings(index: UInt64[np.ndarray, " n"], heap: bytes, name: str) -> np.ndarray:
    """The strings of a column as fixed-length bytes."""
    places, inverse = np.unique(index, return_inverse=True)
    texts = []
    for place in places.tolist():
        stop = heap.find(b"\0", place)
        if stop < 0:
            raise ValueError(f"column {name} names a string beyond its end")
        texts.append(heap[place:stop])
    return np.array(texts or [b""], dtype="S")[inverse] if len(index) else np.empty(0, "S1")

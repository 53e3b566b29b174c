"""The format of weight.bin, and how element types of fewer than eight bits are packed.

MILBlob/Blob/StorageFormat.hpp and BlobDataType.hpp of coremltools: a header of 64 bytes, then for each blob 64 bytes of
metadata at a multiple of 64 and its data after it, little-endian, C order.
"""

import struct
from typing import Any

import ml_dtypes
import numpy as np

ALIGNMENT = 64
SENTINEL = 0xDEADBEEF
VERSION = 2
HEADER = struct.Struct("<II56x")  # number of blobs, version
METADATA = struct.Struct("<IIQQQ32x")  # sentinel, type, bytes, offset of the data, padding in bits

# MIL's names of element types -> numpy's, in which values are read. Those of fewer bits take a byte each once unpacked.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "STRING": np.dtype(object),
    "FLOAT8E4M3FN": np.dtype(ml_dtypes.float8_e4m3fn),
    "FLOAT8E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "FLOAT16": np.dtype(np.float16),
    "BFLOAT16": np.dtype(ml_dtypes.bfloat16),
    "FLOAT32": np.dtype(np.float32),
    "FLOAT64": np.dtype(np.float64),
    "INT4": np.dtype(np.int8),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "UINT1": np.dtype(np.uint8),
    "UINT2": np.dtype(np.uint8),
    "UINT3": np.dtype(np.uint8),
    "UINT4": np.dtype(np.uint8),
    "UINT6": np.dtype(np.uint8),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
}
BITS = {"INT4": 4, "UINT1": 1, "UINT2": 2, "UINT3": 3, "UINT4": 4, "UINT6": 6}
CODES = {
    "FLOAT16": 1,
    "FLOAT32": 2,
    "UINT8": 3,
    "INT8": 4,
    "BFLOAT16": 5,
    "INT16": 6,
    "UINT16": 7,
    "INT4": 8,
    "UINT1": 9,
    "UINT2": 10,
    "UINT4": 11,
    "UINT3": 12,
    "UINT6": 13,
    "INT32": 14,
    "UINT32": 15,
    "FLOAT8E4M3FN": 16,
    "FLOAT8E5M2": 17,
}


def size(dtype: str, count: int) -> int:
    """The bytes that `count` elements of a type take in a file."""
    return -(-count * BITS[dtype] // 8) if dtype in BITS else count * DTYPES[dtype].itemsize


def unpack(data: np.ndarray, bits: int, count: int, signed: bool = False) -> np.ndarray:
    """`count` numbers of `bits` bits from packed bytes: the first one in the lowest bits, across the borders of bytes."""
    spread = np.unpackbits(np.ascontiguousarray(data, np.uint8), bitorder="little")[: count * bits].reshape(count, bits)
    numbers = np.packbits(spread, axis=1, bitorder="little").reshape(count)
    return (
        np.where(numbers >> (bits - 1), numbers.astype(np.int16) - (1 << bits), numbers).astype(np.int8)
        if signed
        else numbers
    )


def decode(data: np.ndarray, dtype: str, count: int) -> np.ndarray:
    """The elements in raw bytes; a view of them where each takes whole bytes."""
    if dtype in BITS:
        return unpack(data, BITS[dtype], count, signed=dtype == "INT4")
    return data.view(DTYPES[dtype])

"""Compressed weights, decoded (coremltools: ops/defs/iOS16/constexpr_ops.py, iOS18/compression.py)."""

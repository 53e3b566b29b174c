"""Pooling (coremltools: ops/defs/iOS15/pool.py)."""

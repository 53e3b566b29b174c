"""Convolutions (coremltools: ops/defs/iOS15/conv.py, iOS17/conv.py)."""

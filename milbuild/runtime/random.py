"""Random numbers (coremltools: ops/defs/iOS15/random.py)."""

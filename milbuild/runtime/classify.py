"""The last step of a classifier (coremltools: ops/defs/iOS15/classify.py)."""

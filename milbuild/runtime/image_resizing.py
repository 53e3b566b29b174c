"""Resizing and resampling (coremltools: ops/defs/iOS15/image_resizing.py, iOS16/image_resizing.py, iOS17/image_resizing.py)."""

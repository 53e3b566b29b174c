"""Recurrent layers (coremltools: ops/defs/iOS15/recurrent.py, iOS17/recurrent.py, iOS18/recurrent.py)."""

"""Quantized values (coremltools: ops/defs/iOS17/quantization_ops.py)."""

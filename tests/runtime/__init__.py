"""The runtime's operations against torch, numpy and their documentation; harness.py says how."""

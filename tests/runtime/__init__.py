"""The runtime's operations against torch, numpy and their documentation; witness.py says how."""

"""Saved packages: what is in them (reader), as graphs (graph), and the format of weight.bin (storage)."""

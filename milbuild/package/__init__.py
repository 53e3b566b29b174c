"""Saved packages: what stands in them (reader), and how a program becomes one (passes, blob, writer)."""

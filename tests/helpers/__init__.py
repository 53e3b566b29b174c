"""What several tests use; asserts in here say their values as those of tests do (tests/conftest.py asks pytest to)."""

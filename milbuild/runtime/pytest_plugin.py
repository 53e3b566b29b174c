"""`pytest -p milbuild.runtime.pytest_plugin`: tests of Core ML models predict on any system, by milbuild.runtime."""

from collections.abc import Generator

import pytest

from milbuild.runtime.dropin import disable, enable


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests() -> Generator[None]:
    """Before a conftest.py can ask coremltools whether it predicts."""
    enable()
    return (yield)


def pytest_configure() -> None:
    """For a plugin that a conftest.py names, which comes too late for the other hook."""
    enable()


def pytest_unconfigure() -> None:
    disable()


def pytest_report_header() -> str:
    return "milbuild.runtime: coremltools' models predict without Core ML"

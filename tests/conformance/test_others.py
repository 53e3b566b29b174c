"""What became of somebody's suite is read from pytest's own report."""

import json

import pytest

from tests.conformance import others

REPORT = b"""<testsuites><testsuite>
<testcase classname="tests.test_x.TestY" name="test_a[1]"><properties>
<property name="milbuild.runtime predicted" value="2"/><property name="milbuild.runtime read" value="2"/>
<property name="milbuild.runtime compared" value="1"/></properties></testcase>
<testcase classname="tests.test_x" name="test_b"><properties>
<property name="milbuild.runtime predicted" value="1"/><property name="milbuild.runtime read" value="0"/>
<property name="milbuild.runtime compared" value="0"/></properties><failure message="AssertionError:
not   equal">trace</failure></testcase>
<testcase classname="tests.test_x" name="test_c"><skipped message="no"/></testcase>
<testcase classname="tests.test_x" name="test_d"><skipped type="pytest.xfail" message="known"/></testcase>
<testcase classname="" name="tests.test_z"><error message="ImportError: jax">trace</error></testcase>
</testsuite></testsuites>"""


def test_a_report_is_counted() -> None:
    found = others.counted(REPORT)
    assert found["counts"] == {
        "tests": 5, "predicted": 2, "read": 1, "compared": 1, "passed": 1, "failed": 2, "skipped": 1, "xfail": 1,
    }  # fmt: skip
    assert found["failures"] == {"test_x::test_b": "AssertionError: not equal", "::tests.test_z": "ImportError: jax"}


def test_a_checkout_is_asked_for_where_it_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["stablehlo-coreml"], ["coremltools-torch", "--checkout", "."]):
        with pytest.raises(SystemExit):
            others.main([*arguments, "--python", "python"])
        assert "--checkout" in capsys.readouterr().err


def test_the_page_is_of_the_record_and_knows_every_failure() -> None:
    record = json.loads(others.RECORD.read_text("utf-8"))
    assert record
    assert set(record) <= set(others.SUITES)
    for found in record.values():
        assert found["counts"]["compared"] > 100
        assert not [test for test in found["failures"] if others._why(test) is None]
    assert others.DOCUMENT.read_text("utf-8").endswith(others.section())

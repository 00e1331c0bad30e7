"""Values of addresses: what fits, and what is named as wrong."""

import pytest

from app import address


@pytest.mark.parametrize(
    "value",
    [
        "²",
        "--3",
        "9" * 5000,
        "٣",
        " 4",
        "4.0",
        "+4",
        "",
        "4_0",
        "1e3",
        "nan",
        "inf",
        "-",
        "6",
        "\uff12",
    ],
)
def test_what_is_no_whole_number_in_the_range_is_wrong(value) -> None:
    assert address.wrong_number([value], 3, 5) == value
    assert address.wrong_number(["4", value], 3, 5) == value


@pytest.mark.parametrize("value", ["3", "5", "004"])
def test_a_whole_number_in_the_range_fits(value) -> None:
    assert address.wrong_number([value], 3, 5) is None


def test_a_fraction_fits_where_the_bounds_are_fractions() -> None:
    assert address.wrong_number(["-2.5", "8"], -8.0, 8.0) is None
    assert address.wrong_number(["8.1"], -8.0, 8.0) == "8.1"


def test_a_quoted_value_is_short_and_printable() -> None:
    assert address.quoted("a\x00b\n") == "“a?b?”"
    assert address.quoted("x" * 5000) == f"“{'x' * 60}...”"

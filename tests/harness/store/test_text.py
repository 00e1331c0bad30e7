import pytest

from harness.store.text import counted


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs"), (1000, "1,000 runs")]
)
def test_counts_agree_with_their_noun(number: int, text: str) -> None:
    assert counted(number, "run") == text

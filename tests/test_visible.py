"""Text from a crawl is shown and not obeyed, and what can be read stays as it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanweb.terminal import plain
from cleanweb.visible import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Ærøskøbing 猫", "Ærøskøbing 猫"),
        ("می\u200cخواهم 👩\u200d🔬", "می\u200cخواهم 👩\u200d🔬"),
        ("a\x1b[2J\tb\r\n", "a\\x1b[2J\\tb\\r\\n"),
        ("zero\u200bwidth \udcff \U000e0041", "zero\\u200bwidth \\udcff \\U000e0041"),
    ],
)
def test_what_does_not_print_is_shown_as_python_writes_it(text: str, shown: str):
    assert visible(text) == shown
    assert visible(shown) == shown


@given(st.text())
def test_words_for_a_terminal_keep_their_lines_and_columns(text: str):
    lines = text.split("\n")
    assert plain(text).split("\n") == ["\t".join(map(visible, line.split("\t"))) for line in lines]

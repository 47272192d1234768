"""docs/reliability.md says what the tests hold."""

from fault_table import PAGE, page_with_table


def test_the_table_of_faults_is_drawn_from_the_tests():
    text = PAGE.read_text()
    assert page_with_table(text) == text, "run: python tests/fault_table.py"

"""The table of faults in docs/reliability.md, drawn from the tests: each of them says which fault it injects.

python tests/fault_table.py  # writes the table into docs/reliability.md
"""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- drawn by tests/fault_table.py -->\n", "<!-- end -->\n"

Test = TypeVar("Test", bound=Callable[..., None])


def fault(where: str, what: str, outcome: str) -> Callable[[Test], Test]:
    """Marks a test that injects a fault; makes a row of the table.

    Args:
        where: Heading of the fault's part of the table.
        what: The fault.
        outcome: What the test holds metarl to.
    """

    def marked(test: Test) -> Test:
        test.faults = [(where, what, outcome), *getattr(test, "faults", [])]  # type: ignore[attr-defined]
        return test

    return marked


def table() -> str:
    """The table in Markdown, one for each heading, rows in the order of the tests."""
    rows = [row for path in sorted(TESTS.rglob("test_*.py")) for test in _marked(path) for row in test.faults]
    parts = []
    for where in sorted({row[0] for row in rows}):
        lines = [f"| {what} | {outcome} |" for place, what, outcome in rows if place == where]
        parts.append("\n".join([f"### {where}", "", "| fault | outcome |", "|---|---|", *lines, ""]))
    return "\n".join(parts)


def page_with_table(text: str) -> str:
    """A page with the table of today between its marks."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1]


def _marked(path: Path) -> list:
    if "@fault(" not in path.read_text():
        return []
    spec = importlib.util.spec_from_file_location(f"faults_of_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [value for value in vars(module).values() if hasattr(value, "faults")]


if __name__ == "__main__":
    sys.path[:0] = [str(TESTS), str(TESTS.parent)]
    PAGE.write_text(page_with_table(PAGE.read_text()))

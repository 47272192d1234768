"""The table of faults in docs/reliability.md, drawn from the tests: each of them says which fault it injects."""

from collections.abc import Callable
from typing import TypeVar

Test = TypeVar("Test", bound=Callable[..., None])
ROWS: list[tuple[str, str, str]] = []


def fault(where: str, what: str, outcome: str) -> Callable[[Test], Test]:
    """Marks a test that injects a fault, and adds a row to the table.

    Args:
        where: Heading of the fault's part of the table.
        what: The fault.
        outcome: What the test holds metarl to.
    """

    def marked(test: Test) -> Test:
        ROWS.append((where, what, outcome))
        return test

    return marked


def table() -> str:
    """The table in Markdown, by headings in the order of the rows."""
    parts = []
    for where in dict.fromkeys(row[0] for row in ROWS):
        rows = [f"| {what} | {outcome} |" for place, what, outcome in ROWS if place == where]
        parts.append("\n".join([f"### {where}", "", "| fault | outcome |", "|---|---|", *rows, ""]))
    return "\n".join(parts)

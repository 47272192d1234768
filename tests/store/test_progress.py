"""The live line tells what an iteration has to tell."""

import pytest

from metarl.store.progress import ProgressLog

COMMON = {"iteration": 1, "steps_per_second": 1234.4, "pre_adaptation_return": -3.21}


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (
            {"post_adaptation_return": -1.0, "kl": 0.01, "outcome": "accepted after 2"},
            "1234 steps/s, return -3.2 -> -1.0, KL 0.0100, accepted after 2",
        ),
        ({"post_adaptation_return": -1.0, "outcome": "done"}, "1234 steps/s, return -3.2 -> -1.0, done"),
        ({}, "1234 steps/s, return -3.2 ["),
    ],
)
def test_line_holds_what_there_is(tmp_path, capsys, row, line):
    with ProgressLog(tmp_path, 0, 1) as log:
        log.write({**COMMON, **row})
    assert line in capsys.readouterr().err

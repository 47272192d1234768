"""The live line tells what an iteration has to tell; a damaged progress.csv is mended."""

import random
import re

import numpy as np
import pytest
from fault_table import fault

from metarl.common.errors import Fault
from metarl.store.progress import ProgressLog, read_progress, read_table
from metarl.store.runs import read_run

COMMON = {"iteration": 1, "steps_per_second": 1234.4, "pre_adaptation_return": -3.21}


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (
            {"post_adaptation_return": -1.0, "kl": 0.01, "outcome": "accepted after 2"},
            "] 1234 steps/s, return -3.2 -> -1.0, KL 0.0100, trial 2",
        ),
        ({"post_adaptation_return": -1.0, "outcome": "done"}, "1234 steps/s, return -3.2 -> -1.0, done"),
        ({}, "] 1234 steps/s, return -3.2"),
    ],
)
def test_line_holds_what_there_is(tmp_path, capsys, row, line):
    with ProgressLog(tmp_path, 0, 1) as log:
        log.write({**COMMON, **row})
    assert line in capsys.readouterr().err


ROWS = [{"iteration": k, "return": -k / 8, "outcome": f"accepted after {k}", "seconds": k * 0.5} for k in range(1, 7)]


def written(folder, rows, iteration=0, log_every=1):
    """The rows of progress.csv after writing ``rows`` on top of what is there until ``iteration``."""
    with ProgressLog(folder, iteration, 0, log_every) as log:
        for row in rows:
            log.write(row)
            log.flush()
    return read_progress(folder).get("iteration", np.array([])).tolist()


def rows_of(folder):
    """The rows of progress.csv, as texts."""
    return read_table(folder / "progress.csv").by_name()


def lines_of(folder):
    return (folder / "progress.csv").read_bytes().splitlines(keepends=True)


# What is done to the lines of a file with the rows 1 to 4, and the rows among them that are lost.
DAMAGES = {
    "torn": (lambda lines: [*lines[:4], lines[4][:-5]], [4]),
    "torn inside a number, with all cells": (lambda lines: [*lines[:4], lines[4].rstrip()[:-1]], [4]),
    "empty": (lambda lines: [], [1, 2, 3, 4]),
    "zeros": (lambda lines: [b"\0" * 300], [1, 2, 3, 4]),
    "zeros at the end": (lambda lines: [*lines[:3], b"\0" * 80], [3, 4]),
    "not text": (lambda lines: [*lines[:2], b"\xff" + lines[2][1:], *lines[3:]], [2]),
    "no header": (lambda lines: lines[1:], [1]),
    "header with a flipped bit": (lambda lines: [lines[0].replace(b"return", b"retuzn"), *lines[1:]], []),
    "header lost": (lambda lines: [b"\0" * len(lines[0]) + b"\n", *lines[1:]], []),
    "a comma lost": (lambda lines: [*lines[:2], lines[2].replace(b",", b"-", 1), *lines[3:]], [2]),
    "a number that is none": (lambda lines: [*lines[:2], lines[2].replace(b".", b"n", 1), *lines[3:]], [2]),
    "an iteration that is none": (lambda lines: [*lines[:3], b"x" + lines[3][1:], *lines[4:]], [3]),
    "a line twice": (lambda lines: [*lines[:3], lines[2], *lines[3:]], []),
    "two lines in one": (lambda lines: [*lines[:2], lines[2].rstrip() + lines[3], *lines[4:]], [2, 3]),
    "words between": (lambda lines: [*lines[:2], b"No space left on device\n", *lines[2:]], []),
    "an open quote": (lambda lines: [*lines[:2], b'2,"0.5' + lines[2][3:], *lines[3:]], [2]),
}


@fault(
    "Run folder",
    "a damaged `progress.csv` (16 ways)",
    "`--resume` goes on, keeps the rows that can be read and the damaged file, and says so",
)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_mended_kept_aside_and_told(tmp_path, capsys, damage):
    written(tmp_path, ROWS[:4])
    change, lost = DAMAGES[damage]
    damaged = b"".join(change(lines_of(tmp_path)))
    (tmp_path / "progress.csv").write_bytes(damaged)
    assert written(tmp_path, ROWS[4:], 4) == [k for k in range(1, 7) if k not in lost]
    stored = [row for row in ROWS if row["iteration"] not in lost]
    assert rows_of(tmp_path) == [{name: str(value) for name, value in row.items()} for row in stored]
    said = capsys.readouterr().err
    if damaged:
        assert re.search(r"progress.csv is damaged: \d of its lines cannot be read", said)
        assert (tmp_path / "progress.csv.damaged").read_bytes() == damaged
    else:
        assert "has no row between iteration 0 and the checkpoint, after 4." in said


@pytest.mark.parametrize("seed", range(5))
def test_no_flipped_bytes_keep_rows_from_being_written(tmp_path, seed):
    written(tmp_path, ROWS[:4])
    generator, content = random.Random(seed), bytearray((tmp_path / "progress.csv").read_bytes())
    for place in generator.sample(range(len(content)), 5):
        content[place] = generator.randrange(256)
    (tmp_path / "progress.csv").write_bytes(content)
    assert written(tmp_path, ROWS[4:], 4)[-2:] == [5, 6]


@fault(
    "Run folder",
    "a last line of `progress.csv` that was cut off after the checkpoint",
    "`--resume` says so and computes the iteration again",
)
def test_a_row_that_was_being_written_for_an_iteration_to_repeat_is_no_damage(tmp_path, capsys):
    written(tmp_path, ROWS[:4])
    (tmp_path / "progress.csv").write_bytes(b"".join(lines_of(tmp_path)) + b"5,-0.6")
    assert written(tmp_path, ROWS[2:], 2) == [1, 2, 3, 4, 5, 6]
    said = capsys.readouterr().err
    assert "damaged" not in said
    assert f"{tmp_path}/progress.csv ends in the middle of a line, written when the run was stopped; that iter" in said
    assert not (tmp_path / "progress.csv.damaged").exists()


def test_rows_that_are_missing_before_the_checkpoint_are_told(tmp_path, capsys):
    assert written(tmp_path, ROWS[1:2], 0) == [2]
    written(tmp_path, ROWS[3:4], 3, log_every=2)
    assert "has no row" not in capsys.readouterr().err  # The next row after 2 is that of iteration 4.
    written(tmp_path, ROWS[5:], 5)
    assert (
        f"{tmp_path}/progress.csv has no row between iteration 4 and the checkpoint, after 5."
        in capsys.readouterr().err
    )


def test_a_run_goes_on_with_other_columns(tmp_path):
    written(tmp_path, [{"iteration": 1, "line_search": "accepted after 1", "old": 0.5}])
    assert written(tmp_path, [{"iteration": 2, "new": 1.5, "outcome": "rejected"}], 1) == [1, 2]
    assert rows_of(tmp_path) == [
        {"iteration": "1", "new": "", "outcome": "accepted after 1", "old": "0.5"},
        {"iteration": "2", "new": "1.5", "outcome": "rejected", "old": ""},
    ]


def test_a_number_that_the_first_iteration_did_not_report_is_named(tmp_path):
    written(tmp_path, [{"iteration": 1, "old": 0.5}, {"iteration": 2}])
    with pytest.raises(Fault, match="2 has numbers that the first iteration did not report: drift, spread"):
        written(tmp_path / "other", [{"iteration": 1, "old": 0.5}, {"iteration": 2, "spread": 1.0, "drift": 1.0}])


def test_a_damaged_file_is_read_without_its_damaged_lines_and_it_is_told(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"env": "navigation", "algo": "maml", "seed": 0}')
    written(tmp_path, ROWS)
    lines = lines_of(tmp_path)
    (tmp_path / "progress.csv").write_bytes(b"".join([*lines[:2], b"\0\n", *lines[3:]]))
    progress = read_run(tmp_path).progress
    assert progress["iteration"].tolist() == [1, 3, 4, 5, 6]
    assert "progress.csv is damaged: 1 of its lines cannot be read and are left out." in capsys.readouterr().err


def test_a_file_saved_by_a_spreadsheet_is_read(tmp_path):
    written(tmp_path, ROWS)
    progress = read_progress(tmp_path)
    path = tmp_path / "progress.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    again = read_progress(tmp_path)
    assert list(again) == list(progress)
    assert again["iteration"].tolist() == progress["iteration"].tolist()


def test_columns_are_numbers_or_texts(tmp_path):
    written(tmp_path, [{"iteration": k, "return": "" if k == 2 else k / 4, "outcome": "done"} for k in (1, 2, 3)])
    progress = read_progress(tmp_path)
    assert list(progress) == ["iteration", "return", "outcome"]
    np.testing.assert_array_equal(progress["return"], [0.25, np.nan, 0.75])
    assert progress["return"].dtype == progress["iteration"].dtype == np.float64
    assert progress["outcome"].tolist() == ["done"] * 3
    assert read_progress(tmp_path / "none") == {}


def test_the_progress_of_a_long_run_is_shown_in_one_line(tmp_path):
    written(tmp_path, [{"iteration": k, "env_steps": 40 * k, "kl": 0.01, "outcome": "done"} for k in range(1, 101)])
    progress = read_progress(tmp_path)
    assert repr(progress) == "Progress(100 rows, 4 columns: iteration, env_steps, kl, ...)"
    del progress["outcome"]
    assert repr(progress) == "Progress(100 rows, 3 columns: iteration, env_steps, kl)"
    assert repr(read_progress(tmp_path / "none")) == "Progress(0 rows)"


def test_pandas_makes_a_table_of_the_progress(tmp_path):
    written(tmp_path, [{"iteration": k, "return": k / 4, "outcome": "done"} for k in (1, 2)])
    progress = read_progress(tmp_path)
    assert isinstance(progress, dict)  # Of another mapping, pandas would take the names only.
    table = pytest.importorskip("pandas").DataFrame(progress)
    assert table.to_dict("list") == {"iteration": [1, 2], "return": [0.25, 0.5], "outcome": ["done"] * 2}

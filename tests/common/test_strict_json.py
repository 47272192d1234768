import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from metarl.common.strict_json import plain, write_json


@dataclass
class Part:
    values: np.ndarray
    where: Path


@dataclass
class Chosen:
    hidden: float

    def to_json(self):
        return {"shown": [self.hidden]}


def test_nan_and_infinity_become_null_wherever_they_are():
    content = {"a": [1.0, math.nan], "b": {"c": (math.inf, -math.inf)}, "d": np.array([[np.nan, 2.0]]), "e": math.nan}
    assert plain(content) == {"a": [1.0, None], "b": {"c": [None, None]}, "d": [[None, 2.0]], "e": None}


def test_arrays_dataclasses_and_paths_become_what_json_has():
    content = {"part": Part(np.float32([0.5, np.inf]), Path("a/b")), "chosen": Chosen(math.nan), "n": np.int64(3)}
    expected = {"part": {"values": [0.5, None], "where": "a/b"}, "chosen": {"shown": [None]}, "n": 3}
    assert plain(content) == expected
    assert json.loads(json.dumps(plain(content), allow_nan=False)) == expected


def test_what_json_has_stays_as_it_is():
    content = {"text": "NaN", "number": 3, "share": 0.1, "yes": True, "none": None, "list": [], "object": {}}
    assert plain(content) == content


def test_file_is_written_into_a_new_folder_and_replaced_as_a_whole(tmp_path):
    path = tmp_path / "new" / "file.json"
    write_json(path, {"a": math.nan}, indent=1)
    assert path.read_text() == '{\n "a": null\n}\n'
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": None}
    assert [file.name for file in path.parent.iterdir()] == ["file.json"]

"""Samples the lists of held-out tasks that all evaluations share: ``python -m benchmarks.tasks``."""

from pathlib import Path

import metarl
from metarl.common.streams import Purpose, stream
from metarl.common.strict_json import write_json

SEED = 20_261_121
NUM_TASKS = 200
FOLDER = Path(__file__).parent / "task_lists"
FAMILIES = ("navigation", "navigation-bimodal")


def main() -> None:
    """Writes one file per family; a repeated run writes the same files."""
    for name in FAMILIES:
        tasks = metarl.get_family(name).sample_tasks(NUM_TASKS, stream(SEED, Purpose.TEST_TASKS), "test")
        path = FOLDER / f"{name}.json"
        write_json(path, {"family": name, "seed": SEED, "split": "test", "tasks": tasks})
        print(f"{path}: {len(tasks)} tasks")


if __name__ == "__main__":
    main()

"""Samples the lists of held-out tasks that all evaluations share: ``python -m benchmarks.tasks``."""

import json
from pathlib import Path

import metarl
from metarl.common.streams import Purpose, stream

SEED = 20_261_121
NUM_TASKS = 200
FOLDER = Path(__file__).parent / "task_lists"
FAMILIES = ("navigation", "navigation-bimodal")


def main() -> None:
    """Writes one file per family; a repeated run writes the same files."""
    for name in FAMILIES:
        tasks = metarl.get_family(name).sample_tasks(NUM_TASKS, stream(SEED, Purpose.TEST_TASKS), "test")
        path = FOLDER / f"{name}.json"
        path.write_text(json.dumps({"family": name, "seed": SEED, "split": "test", "tasks": tasks.tolist()}) + "\n")
        print(f"{path}: {len(tasks)} tasks")


if __name__ == "__main__":
    main()

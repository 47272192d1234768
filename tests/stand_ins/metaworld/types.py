from typing import NamedTuple


class Task(NamedTuple):
    env_name: str
    data: bytes

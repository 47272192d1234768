"""Which cases of a test `make test` runs; `make test-all` runs all of them."""

import pytest


def quick(cases, *only):
    """Cases for ``parametrize``, a list or a dictionary by name; all but ``only`` are marked slow."""
    named = cases if isinstance(cases, dict) else {case: case for case in cases}
    missing = set(only) - set(named)
    assert not missing, f"no such cases: {missing}"
    return [
        pytest.param(case, id=str(name), marks=() if name in only else pytest.mark.slow) for name, case in named.items()
    ]

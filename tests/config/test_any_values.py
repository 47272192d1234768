"""Whatever is given as a setting: it is taken, or refused in our words."""

import dataclasses

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metarl import Config, UserError

ODD = (float("nan"), float("inf"), -1, 0, 1, 1.5, 10**30, "", "a", None, True, b"x", "cheetah-dir", "l2f", "\0", "../x")
values = st.recursive(
    st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=4,
)
NAMES = [field.name for field in dataclasses.fields(Config) if field.name != "run_dir"]
NESTED = {"trpo": "max_kl", "l2f": "scope", "promp": "clip", "adam": "lr", "mumomaml": "trajectories"}


FEW = settings(deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])


def told(choices):
    """What is said of choices that are refused; empty if they are taken."""
    try:
        Config(**choices).resolve()
    except UserError as error:
        return str(error)
    return ""


@settings(FEW, max_examples=150)
@given(st.dictionaries(st.sampled_from(NAMES), values, min_size=1, max_size=3))
def test_any_value_of_any_setting_is_taken_or_refused_in_a_line(choices):
    assert "\n" not in told(choices)


@settings(FEW, max_examples=80)
@given(st.sampled_from(sorted(NESTED)), values)
def test_any_value_of_a_nested_setting_is_taken_or_refused_in_a_line(owner, value):
    assert "\n" not in told({owner: {NESTED[owner]: value}})

"""Every number among the settings has a range, and NaN, infinity and what lies outside are refused."""

import math
from dataclasses import dataclass
from typing import Annotated, get_args

import pytest
from fault_table import fault

import metarl
from metarl import Range, UserError
from metarl.agents.maml import MAML
from metarl.commands.train import parse_config
from metarl.config.checked import Checked, convert, hints


def settings_classes(base=Checked):
    """All classes of settings in the package."""
    for kind in base.__subclasses__():
        yield from settings_classes(kind)
        if kind.__module__.startswith("metarl."):
            yield kind


def numbers_in(kind, ranges=()):
    """The number types in a field's type, each with the ranges beside it; a dictionary holds a family's parameters."""
    if kind in (int, float):
        yield kind, ranges
    elif getattr(kind, "__origin__", None) is not dict:
        beside = [part for part in getattr(kind, "__metadata__", ()) if isinstance(part, Range)]
        for part in get_args(kind):
            yield from numbers_in(part, beside)


def without_range(classes):
    return [
        f"{kind.__name__}.{name}"
        for kind in classes
        for name, annotation in hints(kind).items()
        for _, ranges in numbers_in(annotation)
        if not ranges
    ]


NUMBERS = [
    pytest.param(annotation, number, value_range, id=f"{kind.__name__}.{name}")
    for kind in settings_classes()
    for name, annotation in hints(kind).items()
    for number, (value_range,) in numbers_in(annotation)
]


def test_every_number_among_the_settings_has_a_range():
    assert without_range(settings_classes()) == []
    assert len(NUMBERS) > 50


def test_a_number_without_a_range_is_found():
    @dataclass(frozen=True)
    class Loose(Checked):
        ranged: Annotated[float, Range(0)] = 0.0
        sizes: tuple[int, ...] = ()
        optional: float | None = None

    assert without_range([Loose]) == ["Loose.sizes", "Loose.optional"]


def outside(number, value_range):
    """Numbers just outside a range, and those that no range holds."""
    ends = [value_range.least - 1, 2 * value_range.most, value_range.above, value_range.below]
    return [math.nan, math.inf, -math.inf, True, "1", *(number(end) for end in ends if end is not None)]


@fault(
    "Settings and Python",
    "a number outside its range, NaN or infinite, as any setting",
    "refused before anything is begun; the sentence says the range",
)
@pytest.mark.parametrize(("annotation", "number", "value_range"), NUMBERS)
def test_what_lies_outside_a_range_is_refused(annotation, number, value_range):
    for value in outside(number, value_range):
        with pytest.raises(UserError, match=r"^the setting(\[0\])? must be .*, got .*\.$"):
            convert("the setting", [value] if "tuple" in str(annotation) else value, annotation)


@pytest.mark.parametrize(
    ("value_range", "value", "wanted"),
    [
        (Range(1), 1, None),
        (Range(1), 0.5, "at least 1"),
        (Range(0, 1), 1, None),
        (Range(0, 1), 1.5, "at most 1"),
        (Range(above=0), 0, "greater than 0"),
        (Range(above=0), 1e-300, None),
        (Range(above=0, below=1), 1, "less than 1"),
        (Range(), 1e300, "at most 1000000000000"),
        (Range(), math.nan, "at least -1000000000000"),
    ],
)
def test_a_range_says_what_a_value_must_be(value_range, value, wanted):
    assert value_range.wanted(value) == wanted


class Clipping(MAML):
    """A rule with a setting whose name begins as a switched-off flag does."""

    @dataclass(frozen=True)
    class Settings(metarl.RuleSettings):
        prefix = "rule."

        no_clip: bool = False
        clip_at: float = 1.0

    def __init__(self, policy, inner, settings):
        super().__init__(policy, inner)


def test_a_setting_may_begin_with_no():
    line = ["--env", "navigation", "--algo", f"{__name__}:Clipping"]
    assert parse_config([*line, "--rule.no-clip"]).rule == {"no_clip": True}
    assert parse_config([*line, "--rule.no-no-clip", "--rule.clip-at", "2"]).rule == {"no_clip": False, "clip_at": 2.0}


def test_a_rule_of_ones_own_may_have_ranges_and_refuses_what_is_not_finite():
    @dataclass(frozen=True)
    class Settings(metarl.RuleSettings):
        prefix = "rule."

        strength: Annotated[float, Range(least=0)] = 1.0
        shift: float = 0.0

    assert Settings(2, -3) == Settings(strength=2.0, shift=-3.0)
    for wrong, message in (
        ({"strength": -1}, r"rule\.strength must be at least 0, got -1\.0\."),
        ({"shift": math.inf}, r"rule\.shift must be a finite number, got inf\."),
    ):
        with pytest.raises(UserError, match=message):
            Settings(**wrong)

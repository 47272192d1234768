"""Attenuation by hand: what it scales, what it leaves alone, and that a factor of 1 is the rule itself."""

import pytest
import torch
from problems import LAYERS, MODES, initial, make_policy, make_rule, run

from metarl.agents.attenuated import Attenuated

RULES = [("maml", {}), ("anil", {}), ("meta-sgd", {}), ("mumomaml", {}), ("multi-maml", {"num_modes": 2}), ("l2f", {})]


@pytest.mark.parametrize(("algo", "settings"), RULES)
def test_with_gamma_1_or_no_tensors_it_is_the_rule_itself(algo, settings):
    rule = make_rule(algo, make_policy(), **settings)
    meta = initial(rule)
    expected = run(rule, meta).replay(meta)
    for same in (Attenuated(rule, LAYERS, 1.0), Attenuated(rule, [], 0.3)):
        torch.testing.assert_close(run(same, meta).replay(meta), expected, rtol=0, atol=0)
    other = run(Attenuated(rule, LAYERS, 0.3), meta).replay(meta)
    assert all((policy != mine).any() for policy, mine in zip(other, expected, strict=True))


@pytest.mark.parametrize(("algo", "settings"), RULES)
def test_only_the_named_tensors_of_the_policy_are_scaled(algo, settings):
    rule = make_rule(algo, make_policy(), **settings)
    meta, layout = initial(rule), rule.policy.layout
    plain = rule.start(meta, MODES)
    scaled = Attenuated(rule, ["weight2", "bias2"], 0.25).start(meta, MODES)
    for name, before, after in zip(
        layout.names, layout.views(plain[:, : layout.size]), layout.views(scaled[:, : layout.size]), strict=True
    ):
        torch.testing.assert_close(after, before * (0.25 if name in ("weight2", "bias2") else 1), rtol=0, atol=0)
    # What a rule appends to the policy, such as MuMoMAML its scales, is no part of the initialisation.
    torch.testing.assert_close(scaled[:, layout.size :], plain[:, layout.size :], rtol=0, atol=0)


def test_it_adapts_as_from_an_initialisation_that_was_scaled_beforehand():
    rule = make_rule("maml", make_policy())
    meta = initial(rule)
    expected = run(rule, 0.5 * meta).replay(0.5 * meta)
    torch.testing.assert_close(run(Attenuated(rule, LAYERS, 0.5), meta).replay(meta), expected)

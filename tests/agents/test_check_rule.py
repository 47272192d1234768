"""What `check_rule` finds, and rules of one's own in a run."""

import dataclasses
import functools
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tiny_runs import assert_same_run, final_parameters, tiny

import metarl
from metarl import ALGORITHMS, Config, UserError
from metarl.agents.maml import MAML
from metarl.common.streams import Purpose, stream
from metarl.runs.trained_agent import load
from metarl.runs.training import train

PROXIMAL = "examples.proximal_rule:ProximalMAML"


@pytest.mark.parametrize("rule", [*ALGORITHMS, PROXIMAL, "examples.clipped_rule:ClippedMAML"])
def test_built_in_rules_and_the_examples_pass(rule):
    metarl.check_rule(rule)


class Own(MAML):
    """A rule that a test spoils."""

    def stages(self, step_scales, iteration=None):
        return [metarl.Stage(functools.partial(self.update, size=0.1 * scale)) for scale in step_scales]

    def update(self, meta, parameters, support, size):
        return parameters - size * support.gradient(parameters)


class Detached(Own):
    def update(self, meta, parameters, support, size):
        return parameters - size * support.gradient(parameters).detach()


class Changing(Own):
    def update(self, meta, parameters, support, size):
        with torch.no_grad():
            parameters *= 0.5
        return parameters - size * support.gradient(parameters)


class Mixing(Own):
    def update(self, meta, parameters, support, size):
        return parameters - size * support.gradient(parameters).mean(0, keepdim=True)


class Ordering(Own):
    def update(self, meta, parameters, support, size):
        step = torch.arange(1, len(parameters) + 1)[:, None].to(parameters)
        return parameters - size * step * support.gradient(parameters)


class Shapeless(Own):
    def update(self, meta, parameters, support, size):
        return parameters.mean(0)


class Unfinished(Own):
    def update(self, meta, parameters, support, size):
        return parameters / torch.zeros_like(parameters)


class Restless(Own):
    def initial(self, generator):
        return torch.randn(self.num_meta)


class Short(Own):
    def initial(self, generator):
        return super().initial(generator)[:-1]


class Double(Own):
    def initial(self, generator):
        return super().initial(generator).double()


class Unpicklable(Own):
    def __init__(self, policy, inner):
        super().__init__(policy, inner)
        self.helper = lambda: None


class Failing(Own):
    def update(self, meta, parameters, support, size):
        raise RuntimeError("no such thing")


class OneStep(Own):
    def stages(self, step_scales, iteration=None):
        return super().stages(step_scales[:1])


class SameLength(Own):
    def stages(self, step_scales, iteration=None):
        return super().stages([1.0] * len(step_scales))


class Empty(Own):
    def update(self, meta, parameters, support, size):
        return None


class Bare(Own):
    def stages(self, step_scales, iteration=None):
        return [super().stages(step_scales)[0].update]


class NotJSON(Own):
    @dataclass(frozen=True)
    class Settings(metarl.RuleSettings):
        number: complex = 1j

    def __init__(self, policy, inner, settings):
        super().__init__(policy, inner)


class Silent(Own):
    def describe(self, meta, observed):
        return None


class Wordy(Own):
    def describe(self, meta, observed):
        return {"spread": torch.zeros(3)}


class OfNothing(Own):
    def stages(self, step_scales, iteration=None):
        first, *others = super().stages(step_scales, iteration)
        return [dataclasses.replace(first, rollouts=0), *others]


class Twice(Own):
    """Takes its second step with the episodes of the first; reports a tensor."""

    def stages(self, step_scales, iteration=None):
        first, *others = super().stages(step_scales, iteration)
        return [first, *(dataclasses.replace(stage, rollouts=0) for stage in others)]

    def describe(self, meta, observed):
        return {"first": meta[0]}


class Forgetful(Own):
    def after_meta_step(self, meta, observed):
        return None


class Flat(Own):
    def observe(self, loop):
        return loop.meta.new_zeros(4)


class NoDefault(Own):
    @dataclass(frozen=True)
    class Settings(metarl.RuleSettings):
        number: float


class TakesNoInner(Own):
    def __init__(self, policy):
        super().__init__(policy, None)


class Overwriting(Own):
    def describe(self, meta, observed):
        return {"kl": 1.0, "iteration": 7, "validation_mine": 0.0}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Silent, "the rule's `describe` must return a dictionary of numbers by name, got None"),
        (Wordy, r"the rule's `describe` must return numbers, got tensor\(\[0., 0., 0.\]\) for 'spread'"),
        (OfNothing, "the first stage has no rollouts before it to use again; leave out its rollouts=0"),
        (Forgetful, r"the rule's `after_meta_step` must return the \d+ meta-parameters, got None"),
        (Flat, r"observe must return \[task, feature\] for 3 tasks, got shape \(4,\)"),
        (NoDefault, "NoDefault.Settings needs a default for number"),
        (TakesNoInner, r"TakesNoInner cannot be made from \(policy, inner settings\): .* takes 2 positional arguments"),
        (Detached, "its derivatives differ from finite differences"),
        (Changing, "stage 0 changes its inputs"),
        (Mixing, "a task's result depends on the other tasks"),
        (Ordering, "the order of the tasks changes the results"),
        (Shapeless, r"stage 0 must return \[3 tasks, at least \d+ parameters\], got shape"),
        (Unfinished, "has 1 problem.*\n- stage 0 returns numbers that are not finite"),
        (Empty, r"has 1 problem.*\n- stage 0 must return a tensor, got None"),
        (
            Bare,
            r"has 1 problem.*\n- stages must give metarl.Stage objects, such as Stage\(update\), got functools.partial",
        ),
        (Restless, "initial is not reproducible"),
        (Short, "initial must return num_meta"),
        (Double, r"initial must return num_meta = \d+ numbers of torch.float32, got .* of torch.float64"),
        (Unpicklable, "it cannot be pickled"),
        (Failing, "could not be checked: RuntimeError: no such thing"),
        (OneStep, "stages gives other than 2 steps for 2 factors"),
        (SameLength, "stage 1 is not half as long with half its factor in step_scales; multiply"),
        (NotJSON, "its settings cannot be stored as JSON"),
    ],
)
def test_each_defect_is_found(rule, message):
    with pytest.raises(UserError, match=message):
        metarl.check_rule(rule)


class FirstOrder(Detached):
    def __init__(self, policy, inner):
        super().__init__(policy, inner)
        self.exact = False


@pytest.mark.parametrize("rule", [Own, FirstOrder])
def test_a_rule_without_defects_passes_and_one_that_says_that_it_is_first_order_may_be_so(rule):
    metarl.check_rule(rule)


def test_settings_are_chosen_as_a_dictionary_or_refused():
    metarl.check_rule(PROXIMAL, {"strength": 0.5})
    with pytest.raises(UserError, match=r"settings has no setting 'strengt'\. Did you mean 'strength'"):
        metarl.check_rule(PROXIMAL, {"strengt": 0.5})


def test_a_run_with_a_rule_of_ones_own_is_stored_resumed_and_loaded(tmp_path):
    settings = {"algo": PROXIMAL, "rule": {"strength": 0.5}}
    train(tiny(tmp_path / "whole", **settings, iterations=3))
    train(tiny(tmp_path / "parts", **settings, iterations=1))
    stored = json.loads((tmp_path / "parts" / "config.json").read_text())
    assert stored["rule"] == {"strength": 0.5}
    train(tiny(tmp_path / "parts", **settings, iterations=3, resume=True))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    agent = load(tmp_path / "whole")
    assert agent.settings.own.strength == 0.5
    assert torch.equal(agent.meta, torch.from_numpy(final_parameters(tmp_path / "whole")))


def test_each_step_with_the_episodes_of_another_is_measured(tmp_path):
    metarl.check_rule(Twice)
    run = train(tiny(tmp_path, algo=Twice, num_inner_steps=2, inner_lr=0.5))
    assert len(set(run.progress["pre_adaptation_return"] - run.progress["post_adaptation_return"]) - {0.0}) == 2
    result = metarl.evaluate(tmp_path, metarl.EvaluationConfig(tasks=3, rollouts=2, gradient_steps=3), trust=True)
    assert result.returns.shape == (3, 4)
    assert result.adaptation_episodes.tolist() == [0, 2, 2, 2]  # All steps read the same two episodes.
    with pytest.raises(UserError, match="no rollouts before it to use again"):
        train(tiny(tmp_path / "nothing", algo=OfNothing))


def test_a_reported_tensor_is_a_number(tmp_path):
    run = train(tiny(tmp_path, algo=Twice))
    assert run.progress["first"].dtype.kind == "f"
    assert run.progress["first"][0] == pytest.approx(
        float(run.agent.rule.initial(stream(0, Purpose.INITIALISATION))[0])
    )


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_examples_clipped_rule_is_maml_where_nothing_is_clipped(tmp_path, epochs):
    exact = {"fisher_fraction": 1, "hessian_fraction": 1}
    settings = {"iterations": 1, "validate_every": 0, "trpo": exact}
    train(tiny(tmp_path / "maml", algo="maml", **settings))
    rule = {"clip": 1e6, "epochs": epochs}
    train(tiny(tmp_path / "clipped", algo="examples.clipped_rule:ClippedMAML", rule=rule, **settings))
    ours, theirs = final_parameters(tmp_path / "clipped"), final_parameters(tmp_path / "maml")
    near = np.abs(ours - theirs).max() < 1e-3 * np.abs(theirs).max()
    assert near == (epochs == 1)  # A second step with the same episodes is another rule.


def test_the_examples_rule_with_no_strength_is_maml(tmp_path):
    train(tiny(tmp_path / "own", algo=PROXIMAL, rule={"strength": 0.0}, num_inner_steps=2))
    train(tiny(tmp_path / "maml", algo="maml", num_inner_steps=2))
    train(tiny(tmp_path / "strong", algo=PROXIMAL, rule={"strength": 5.0}, num_inner_steps=2))
    own, maml, strong = (final_parameters(tmp_path / name) for name in ("own", "maml", "strong"))
    torch.testing.assert_close(own, maml, rtol=1e-4, atol=1e-6)
    assert abs(strong - maml).max() > 1e-3


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            Overwriting,
            "has names that the run itself writes: iteration, kl, validation_mine; rename them. It happened in",
        ),
        (Silent, "must return a dictionary of numbers by name, got None. It happened in iteration 1"),
        (Forgetful, "meta-parameters, got None. It happened in iteration 1"),
        (Short, "the rule's initial must return num_meta"),
    ],
)
def test_a_run_stops_where_a_rules_report_is_wrong(tmp_path, rule, message):
    with pytest.raises(UserError, match=message):
        train(tiny(tmp_path / "run", algo=rule, iterations=2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": {"strngth": 1.0}}, r"rule has no setting 'strngth'\. Did you mean 'strength'"),
        ({"rule": 3}, "rule must be Settings or a dictionary of its settings, got 3"),
    ],
)
def test_settings_that_a_rule_has_not_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Config(algo=PROXIMAL, **settings).resolve()


@pytest.mark.parametrize(
    ("algo", "message"),
    [
        ("examples.proximal_rule:Proximal", "has no 'Proximal'. Did you mean 'ProximalMAML'"),
        ("examples.proximal_rul:ProximalMAML", "there is no module 'examples.proximal_rul'"),
        ("examples.proximal_rule", "unknown algorithm"),
    ],
)
def test_a_rule_that_is_not_there_is_refused(algo, message):
    with pytest.raises(UserError, match=message):
        Config(algo=algo)


def test_a_class_stands_for_its_name():
    config = Config(algo=Own)
    assert config.algo == f"{__name__}:Own"
    assert dataclasses.replace(config, algo="maml") == Config(algo="maml")

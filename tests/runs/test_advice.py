"""What a run says of itself while it lasts."""

import dataclasses

import pytest
from tiny_runs import tiny

from metarl import Config
from metarl.outer.trpo import TRPO
from metarl.runs.advice import Advice, against_large_steps
from metarl.runs.training import train


def said(rows, **settings):
    advice = Advice(Config(**{"algo": "l2f", **settings}).resolve())
    return [remark for row in rows for remark in advice.after(row)]


def rows(number, outcome="accepted after 1", size=1.0):
    return [{"outcome": outcome, "effective_sample_size": size}] * number


def test_many_rejected_steps_are_told_once():
    assert said([*rows(20), *rows(2, "rejected")]) == []
    (remark,) = said([*rows(20), *rows(30, "rejected")])
    assert remark.startswith("3 of the last 10 meta-steps were not accepted (3 rejected): try more data for each step")
    assert said(rows(9, "rejected")) == []


NORMALISED = {"normalise_observations": True}
EPISODES = "more data for each step (meta_batch_size or rollouts_per_task)"
IN_RL = "normalise_observations, or smaller rewards"


@pytest.mark.parametrize(
    ("outcome", "settings", "expected"),
    [
        ("rejected", {}, f"{EPISODES}, a smaller inner_lr, or normalise_observations"),
        ("rejected", {"algo": "pretrain"}, f"{EPISODES}, or normalise_observations"),
        ("rejected", {"num_inner_steps": 0}, f"{EPISODES}, or normalise_observations"),
        ("rejected", {"algo": "cavia", **NORMALISED}, f"{EPISODES}, or a smaller cavia.step_size"),
        ("non-finite", {}, f"a smaller trpo.max_kl or inner_lr, {IN_RL}"),
        ("non-finite", {"algo": "cavia"}, f"a smaller trpo.max_kl or cavia.step_size, {IN_RL}"),
        ("non-finite", {"algo": "oracle"}, f"a smaller trpo.max_kl, {IN_RL}"),
        ("non-finite", {"algo": "rl2"}, "a smaller ppo.lr, or smaller rewards"),
        ("non-finite", {"algo": "pearl"}, "a smaller sac.lr, or smaller rewards"),
        ("non-finite", {"env": "sinusoid"}, "a smaller adam.lr or inner_lr"),
        ("non-finite", {"algo": "pretrain", "env": "sinusoid"}, "a smaller adam.lr"),
        (
            "zero gradient",
            NORMALISED,
            "fewer iterations if every episode earns the most that it can, else a reward that depends on the actions, "
            "or a longer horizon",
        ),
    ],
)
def test_only_settings_that_can_help_are_named(outcome, settings, expected):
    (remark,) = said(rows(10, outcome), **{"algo": "maml", **settings})
    assert remark.endswith(f"): try {expected}.")


def test_a_baseline_takes_gradient_steps_in_validation_only():
    def advice(**settings):
        resolved = Config(**settings).resolve()
        return against_large_steps(resolved), against_large_steps(resolved, validating=True)

    training, validation = advice(algo="pretrain", baseline={"trainer": "ppo"})
    assert (training, validation) == ("smaller rewards", "a smaller inner_lr, or smaller rewards")
    training, validation = advice(algo="oracle")
    assert training == validation == "a smaller trpo.max_kl, normalise_observations, or smaller rewards"


def test_steps_without_a_gradient_may_mean_that_the_family_is_solved():
    (remark,) = said(rows(10, "zero gradient"))
    assert "(10 zero gradient): try fewer iterations if every episode earns the most that it can, else a rew" in remark


def test_a_low_effective_sample_size_is_told_once():
    assert said(rows(30, size=0.6)) == []
    (remark,) = said(rows(30, size=0.1))
    assert remark.startswith("the effective sample size of the episodes that L2F reuses is 10 % of their number")
    assert remark.endswith("try l2f.reuse_kl 1, or l2f.attenuation_rollouts fresh.")
    (remark,) = said(rows(30, size=0.1), l2f={"reuse_kl": 0})
    assert remark.endswith("try l2f.reuse_kl 0.1, or l2f.attenuation_rollouts fresh.")
    (remark,) = said(rows(30, size=0.1), meta_optimiser="promp")
    assert remark.endswith("try meta_optimiser trpo, or l2f.attenuation_rollouts fresh.")
    (remark,) = said(rows(30, size=0.1), algo="maml")  # As of an own rule.
    assert "the episodes that the rule reuses is 10 %" in remark
    assert remark.endswith("try a smaller change before the step that reuses them, or fresh episodes for it.")
    assert said([{"outcome": "accepted after 1"}] * 20) == []  # Supervised runs have none.


def test_a_run_says_it_above_the_live_line(tmp_path, monkeypatch, capsys):
    step = TRPO.step

    def reject(self, state, *rest):
        _, report = step(self, state, *rest)
        return state, dataclasses.replace(report, outcome="rejected")

    monkeypatch.setattr(TRPO, "step", reject)
    monkeypatch.setattr("metarl.runs.advice._ITERATIONS", 2)
    train(tiny(tmp_path / "run", iterations=4))
    shown = capsys.readouterr().err
    assert shown.count("2 of the last 2 meta-steps were not accepted (2 rejected): try more data for each step") == 1

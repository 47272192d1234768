"""A callback of ``metarl.train`` that lets Optuna give up on trials that promise little.

    pip install optuna
    python -m examples.optuna_pruning

``examples/sweep.py`` runs the same study in several processes.
"""

from functools import partial
from pathlib import Path

import metarl


class Pruning:
    """Reports every validation to a trial, and stops the run if Optuna would prune it.

    Args:
        trial: The ``optuna.Trial``.
        name: What is validated: "return", or a metric of the family, such as "success".

    Attributes:
        pruned: Whether the run was stopped.
    """

    def __init__(self, trial, name="return"):
        self.trial, self.column, self.pruned = trial, f"validation_post_adaptation_{name}", False

    def __call__(self, iteration, row, agent):
        value = row.get(self.column, "")
        if value != "":  # There was a validation after this iteration.
            self.trial.report(value, iteration)
            self.pruned = self.trial.should_prune()
        return self.pruned


def require_optuna():
    try:
        import optuna
    except ImportError as error:
        raise SystemExit("this example needs Optuna: pip install optuna") from error
    return optuna


def objective(trial, folder, **settings):
    """The return on held-out tasks after three gradient steps."""
    config = metarl.Config(
        env="navigation",
        algo="maml",
        run_dir=Path(folder) / f"trial{trial.number}",
        inner_lr=trial.suggest_float("inner_lr", 0.01, 1.0, log=True),
        trpo={"max_kl": trial.suggest_float("max_kl", 0.003, 0.03, log=True)},
        **{"iterations": 40, "validate_every": 5, **settings},
    )
    callback = Pruning(trial)
    run = metarl.train(config, callback=callback)
    if callback.pruned:
        raise require_optuna().TrialPruned
    result = metarl.evaluate(run.path, metarl.EvaluationConfig(gradient_steps=3))
    return float(result.mean[-1])


def main(folder="runs/optuna", trials=20, **settings):
    study = require_optuna().create_study(direction="maximize")
    study.optimize(partial(objective, folder=folder, **settings), n_trials=trials)
    print(f"best return {study.best_value:.2f} with {study.best_params}")


if __name__ == "__main__":
    main()

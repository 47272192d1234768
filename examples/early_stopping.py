"""A callback of ``metarl.train`` that stops a run when its validation no longer improves.

    python -m examples.early_stopping

The best checkpoint is kept all the same: ``metarl.load(run.path, "best")``.
"""

import metarl


class EarlyStopping:
    """Stops a run after ``patience`` validations in a row that were no better than the best before them.

    Args:
        name: What is validated: "return", or a metric of the family, such as "success".
        patience: Number of validations.
        sign: 1 if more is better, -1 if less is.
    """

    def __init__(self, name="return", patience=5, sign=1):
        self.column, self.patience, self.sign = f"validation_post_adaptation_{name}", patience, sign
        self.best, self.in_vain = float("-inf"), 0

    def __call__(self, iteration, row, agent):
        value = row.get(self.column, "")
        if value == "":  # There was no validation after this iteration.
            return False
        better = self.sign * value > self.best
        self.best, self.in_vain = max(self.best, self.sign * value), 0 if better else self.in_vain + 1
        return self.in_vain >= self.patience


if __name__ == "__main__":
    config = metarl.Config(env="navigation", algo="maml", iterations=100, validate_every=2)
    run = metarl.train(config, callback=EarlyStopping(patience=5))
    print(f"stopped after iteration {run.progress['iteration'][-1]:.0f}")

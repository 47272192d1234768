"""A callback of ``metarl.train`` that sends the numbers of every logged iteration to Weights & Biases.

pip install wandb
python -m examples.wandb_logging
"""

import math

import metarl


class WandbLogger:
    """Logs the numbers of progress.csv.

    Args:
        run: The result of ``wandb.init``.
    """

    def __init__(self, run):
        self.run = run

    def __call__(self, iteration, row, agent):
        numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
        self.run.log({name: value for name, value in numbers.items() if math.isfinite(value)}, step=iteration)


def main(iterations=20):
    try:
        import wandb
    except ImportError as error:
        raise SystemExit("this example needs Weights & Biases: pip install wandb") from error
    config = metarl.Config(env="navigation", algo="maml", iterations=iterations)
    with wandb.init(project="metarl", config=config.to_dict()) as run:
        metarl.train(config, callback=WandbLogger(run))


if __name__ == "__main__":
    main()

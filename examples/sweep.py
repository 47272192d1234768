"""An Optuna study in several processes, which share it through a file.

    pip install optuna
    python -m examples.sweep --processes 4 --trials 40

Started again, it adds trials to the same study. Several machines may do so at once, on a common disk.
"""

import argparse
import multiprocessing
from functools import partial
from pathlib import Path

from examples.optuna_pruning import objective, require_optuna


def open_study(folder):
    """The study in ``folder``; made if it does not exist."""
    optuna = require_optuna()
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(f"{folder}/study.log"))
    return optuna.create_study(storage=storage, study_name="sweep", direction="maximize", load_if_exists=True)


def work(folder, trials, settings):
    """Runs trials, one after the other."""
    # On one thread, because the processes together use all cores.
    open_study(folder).optimize(partial(objective, folder=folder, threads=1, **settings), n_trials=trials)


def main(folder="runs/sweep", processes=2, trials=20, **settings):
    """Runs trials of a study, divided among processes; returns the study."""
    require_optuna()
    Path(folder).mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    shares = [(trials + index) // processes for index in range(processes)]
    workers = [context.Process(target=work, args=(folder, share, settings)) for share in shares]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a process of the sweep has failed; its message says why")
    study = open_study(folder)
    print(f"best of {len(study.trials)} trials: {study.best_value:.2f} with {study.best_params}")
    return study


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", default="runs/sweep")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--trials", type=int, default=20)
    main(**vars(parser.parse_args()))

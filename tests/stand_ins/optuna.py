"""As much of Optuna as examples/optuna_pruning.py and examples/sweep.py use; the study is a file of JSON lines."""

import fcntl
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

storages = SimpleNamespace(JournalStorage=lambda backend: backend, journal=SimpleNamespace(JournalFileBackend=Path))


class TrialPruned(Exception):
    pass


class Trial:
    """It prunes every trial but the first when it has been reported to twice."""

    def __init__(self, number):
        self.number, self.params, self.reports = number, {}, []

    def suggest_float(self, name, low, high, log=False):
        self.params[name] = low + (high - low) * (self.number % 7) / 7
        return self.params[name]

    def report(self, value, step):
        self.reports.append((step, value))

    def should_prune(self):
        return self.number > 0 and len(self.reports) == 2


class Study:
    def __init__(self, path):
        self._path = path

    def optimize(self, objective, n_trials):
        for _ in range(n_trials):
            trial = Trial(self._append({"begins": True}))
            try:
                value = objective(trial)
            except TrialPruned:
                value = None
            self._append({"number": trial.number, "value": value, "params": trial.params, "reports": trial.reports})

    @property
    def trials(self):
        lines = [json.loads(line) for line in self._path.read_text().splitlines()]
        return [SimpleNamespace(**line) for line in lines if "number" in line]

    @property
    def best_trial(self):
        return max((trial for trial in self.trials if trial.value is not None), key=lambda trial: trial.value)

    @property
    def best_value(self):
        return self.best_trial.value

    @property
    def best_params(self):
        return self.best_trial.params

    def _append(self, line):
        """Appends a line; returns how many trials had begun before."""
        with self._path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            begun = file.read().count('"begins"')
            file.write(json.dumps(line) + "\n")
        return begun


def create_study(direction, storage=None, study_name=None, load_if_exists=False):
    assert direction == "maximize"
    return Study(storage or Path(tempfile.mkdtemp()) / "study.log")

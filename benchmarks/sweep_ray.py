"""Ray Tune with Optuna's TPE on the stub: ``PYTHON -m benchmarks.sweep_ray`` in an environment that has both.

``benchmarks.sweep`` runs it with the interpreter that ``RAY_PYTHON`` names: Ray is no dependency of durabert.
"""

from __future__ import annotations

import json
import time

import ray
from ray import tune
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

from benchmarks.sweep_score import CONCURRENCY, STUB_SECONDS, TRIALS, score

SPACE = {
    "learning_rate": tune.loguniform(1e-6, 1e-2),
    "weight_decay": tune.uniform(0.0, 0.3),
    "batch_size": tune.choice([8, 16, 32]),
}


def train(config: dict) -> None:
    time.sleep(STUB_SECONDS)
    tune.report({"accuracy": score(**config)})


def main() -> None:
    ray.init(num_cpus=CONCURRENCY, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    search = ConcurrencyLimiter(
        OptunaSearch(metric="accuracy", mode="max", seed=42), max_concurrent=CONCURRENCY
    )
    tuner = tune.Tuner(
        train,
        param_space=SPACE,
        tune_config=tune.TuneConfig(
            search_alg=search, num_samples=TRIALS, metric="accuracy", mode="max", reuse_actors=True
        ),
        run_config=tune.RunConfig(verbose=0),
    )
    began = time.perf_counter()
    results = tuner.fit()
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "best": results.get_best_result().metrics["accuracy"]}))


if __name__ == "__main__":
    main()

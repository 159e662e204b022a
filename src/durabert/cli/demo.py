"""``durabert demo``: the main job, once through, on data that comes with the package."""

from __future__ import annotations

import asyncio
import shutil
import sys
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

from durabert.cli.follow import exit_code, follow_experiment
from durabert.cli.output import put, say
from durabert.cli.render import print_outcome, print_predictions
from durabert.cli.train import spec_from_options
from durabert.client import Client
from durabert.engine import home_directory
from durabert.specs import InferenceRequest

NAME: Final = "demo"
RUNS: Final = (
    {"name": "gentle", "epochs": 3, "batch_size": 32, "learning_rate": 5e-5},
    {"name": "bold", "epochs": 4, "batch_size": 16, "learning_rate": 1e-4},
)
SENTENCES: Final = (
    "A small film with a very large heart.",
    "A plot that makes no sense, and two hours that feel like four.",
    "The soup was cold and the waiter was colder.",
    "Not the fastest app I own, but the only one that never lost my work.",
    "They fixed it the same day, and the price was fair.",
)


def run(*, profile: str | None) -> None:
    """Train two configurations on the demo reviews, predict a few sentences, and say what to do next."""
    with as_file(files("durabert.demo") / "reviews") as reviews:
        code = asyncio.run(_run(reviews, profile))
    if code:
        raise SystemExit(code)


async def _run(reviews: Path, profile: str | None) -> int:
    spec = spec_from_options(
        str(reviews),
        name=NAME,
        config=None,
        fields={},
        data_fields={},
        runs=list(RUNS),
        in_order=False,
        profile=profile,
    )
    async with Client.connect(
        profile=profile, on_starting=lambda: say("Starting the embedded Temporal server and a worker ...")
    ) as client:
        if client.engine:
            say(f"Temporal Web, while this runs: {client.engine.info.ui}")
        started = await client.start(spec)
        if started.joined:
            say(f"Experiment {NAME!r} is there already; joined it, nothing is trained twice.")
        view = await follow_experiment(client, NAME)
        if view is None:
            return 130
        print_outcome(view, as_json=False)
        results = [run.result for run in view.runs if run.result]
        if len(results) < len(view.runs):
            return exit_code(view)
        best = max(results, key=lambda result: result.metrics[result.metric])
        request = InferenceRequest(run=best.run, texts=SENTENCES)
        put(f"\nPredictions of {best.run}:")
        print_predictions(request, await client.predict(request))
    put(_next_steps(best.run, best.directory, embedded=client.engine is not None))
    return 0


def _next_steps(run: str, directory: str, *, embedded: bool) -> str:
    # After "make demo" the virtual environment is not on the PATH.
    durabert = "durabert" if shutil.which("durabert") else sys.argv[0]
    lines = [
        f"The model:            {directory}/model",
        f"Predict with it:      {durabert} predict {run} 'Your own sentence'",
        f"Everything about it:  {durabert} show {run}",
        f"Replay its history:   {durabert} replay {NAME}",
        f"Your own data:        {durabert} train reviews.csv",
    ]
    if embedded:
        lines.append(f"Temporal Web:         {durabert} up   (home: {home_directory()})")
    return "\n".join(lines)

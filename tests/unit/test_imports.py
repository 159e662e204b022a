"""Who may import whom, where import-linter cannot see it: lazy imports and third parties."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pkgutil import iter_modules

import pytest
from temporalio.workflow import _Definition

from durabert import workflows

TRAINING_LIBRARIES = ("torch", "transformers", "datasets", "sklearn")


def run_without(*modules: str, code: str) -> subprocess.CompletedProcess[str]:
    blocked = f"import sys; sys.modules.update(dict.fromkeys({modules!r}))\n{code}"
    return subprocess.run(
        [sys.executable, "-c", blocked], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    "module",
    [
        "durabert",
        "durabert.api",
        "durabert.client",
        "durabert.cli.train",
        "durabert.cli.batch",
        "durabert.cli.export",
        "durabert.cli.schedules",
        "durabert.cli.report",
        "durabert.cli.track",
        "durabert.cli.evaluation",
        "durabert.cli.comparison",
        "durabert.cli.app",
    ],
)
def test_a_client_needs_no_training_library(module):
    done = run_without(*TRAINING_LIBRARIES, "pyarrow", "numpy", code=f"import {module}")

    assert done.returncode == 0, done.stderr


def test_the_model_side_and_the_store_need_no_temporal():
    jobs = ("inference_jobs", "batch_jobs", "evaluation_jobs", "training_jobs")
    modules = ["bert.loop", "bert.predict", "store", *(f"activities.{name}" for name in jobs)]
    lines = "\n".join(f"import durabert.{module}" for module in modules)

    done = run_without("temporalio", code=lines)

    assert done.returncode == 0, done.stderr


def test_a_report_of_a_sweep_needs_no_optuna_but_for_importance():
    done = run_without("optuna", code="import durabert.cli.report, durabert.report.sweep_page")

    assert done.returncode == 0, done.stderr


def test_runs_are_compared_without_torch():
    done = run_without("torch", code="import durabert.activities.comparison")

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["durabert.activities.run_record", "durabert.report.page"])
def test_a_report_needs_no_training_library(module):
    done = run_without(*TRAINING_LIBRARIES, code=f"import {module}")

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("package", "tracker", "target"),
    [
        ("tensorboard", "TensorBoard", "boards"),
        ("mlflow", "MLflow", "sqlite:///mlflow.db"),
        ("wandb", "Wandb", ""),
    ],
)
def test_a_tracker_whose_library_is_not_installed_names_the_extra(package, tracker, target):
    done = run_without(
        package, code=f"from durabert.trackers.{package} import {tracker}\n{tracker}({target!r})"
    )

    assert done.returncode == 1
    assert f"DependencyMissing: {package} is not installed; run: pip install 'durabert[{package}]'" in (
        done.stderr.splitlines()[-1].removeprefix("durabert.errors.")
    )


def test_every_public_name_resolves():
    done = subprocess.run(
        [sys.executable, "-c", "import durabert\nfor name in durabert.__all__: getattr(durabert, name)"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["durabert", "durabert.warming"])
def test_what_is_needed_first_loads_neither_temporal_nor_torch(module):
    code = f"import sys, {module}; print({{'torch', 'temporalio', 'pydantic'}} & set(sys.modules))"

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.stdout.strip() == "set()"


def test_a_help_text_loads_nothing_that_only_commands_need():
    code = """
import sys
from durabert.cli.app import app
app(["--help"], standalone_mode=False)
print({"asyncio", "pydantic", "rich", "temporalio", "torch"} & set(sys.modules))
"""

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )

    assert "Durable fine-tuning of BERT-family models" in done.stdout
    assert done.stdout.splitlines()[-1] == "set()"


def test_the_module_of_a_workflow_loads_no_other_pattern():
    loaded = "[name for name in sys.modules if name.startswith('durabert.workflows.bert_')]"
    done = run_without(code=f"import sys, durabert.workflows.bert_finetune; print(*{loaded})")

    # Temporal imports it anew for each run.
    assert done.stdout.split() == ["durabert.workflows.bert_finetune"], done.stderr


def test_all_workflows_are_all_that_there_are():
    modules = [
        importlib.import_module(one.name) for one in iter_modules(workflows.__path__, "durabert.workflows.")
    ]
    defined = {
        name
        for module in modules
        for name, one in vars(module).items()
        if isinstance(one, type) and one.__module__ == module.__name__ and _Definition.from_class(one)
    }

    assert {workflow.__name__ for workflow in workflows.WORKFLOWS} == defined
    assert set(workflows.__all__) == defined | {"WORKFLOWS"}


def test_a_worker_warms_up_before_it_imports_the_sdk():
    code = """
import sys
from durabert import warming

def warm_up():
    print({"temporalio", "torch"} & set(sys.modules), flush=True)
    sys.exit(3)

warming.warm_up = warm_up
from durabert.cli.app import app
app(["worker"])
"""

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stdout) == (3, "set()\n"), done.stderr

"""What a run is recorded to depend on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import durabert
from durabert.bert.environment import CODE_SHA256

LINEAGES = """
import sys
from pathlib import Path

import durabert
from durabert.activities.reuse import Inputs
from durabert.bert.data import load_training_data
from durabert.specs import DataSpec, FineTuneConfig, FineTuneRequest

source = Path(durabert.__file__).parent / "bert" / "loop.py"
source.write_text(source.read_text() + "# one line more")
data = DataSpec(source=sys.argv[1])
request = FineTuneRequest(experiment="e", run="e", data=data, config=FineTuneConfig(model=sys.argv[2]))
print(Inputs.of(request, load_training_data(data)).lineage.code_sha256)
"""


def test_a_run_names_the_code_that_computes_it_whatever_is_installed_meanwhile(tmp_path: Path, tiny: Path):
    package = Path(durabert.__file__).parent
    shutil.copytree(package, tmp_path / "durabert", ignore=shutil.ignore_patterns("__pycache__"))
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "well done,good\nnever again,bad\n" * 20)

    def recorded() -> str:
        done = subprocess.run(
            [sys.executable, "-c", LINEAGES, str(rows), str(tiny)],
            capture_output=True, text=True, check=True, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)},
        )  # fmt: skip
        return done.stdout.strip()

    assert recorded() == CODE_SHA256
    # The one before has changed a source.
    assert recorded() != CODE_SHA256

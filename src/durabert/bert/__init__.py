"""The model side: data, tokens, batches, training, prediction. It knows neither Temporal nor the store."""

import os

# OpenMP reads these when torch is imported. Threads that wait for each other spin for milliseconds by
# default: two trainings on one machine then take the cores from each other, and run ten times slower.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("KMP_BLOCKTIME", "1")

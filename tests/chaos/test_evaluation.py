"""An evaluation whose process is killed: another one finds or computes it, and it is the same."""

from __future__ import annotations

from durabert.chaos import Plan
from durabert.specs import DataSpec, EvaluationRequest, EvaluationResult
from durabert.store.evaluations import EvaluationStore
from durabert.store.objects import open_store
from tests.batches import publish, train_model
from tests.chaos.test_batch_inference import attempts_of
from tests.unit.test_evaluation_jobs import HOW, Jobs, reviews, write_rows

OF_THE_COMPUTATION = {"seconds", "attempts", "reused"}


def measured(result: EvaluationResult) -> dict:
    return result.model_dump(exclude=OF_THE_COMPUTATION)


async def test_a_killed_evaluation_is_the_one_of_an_undisturbed_process(client, start_worker, home, tmp_path):
    model = train_model(tmp_path)
    publish(home, "films", model)
    publish(tmp_path / "calm", "films", model)
    data = write_rows(tmp_path / "test.csv", reviews(("bad", "good")))
    faults = Plan(tmp_path / "faults")
    faults.add("evaluation.commit", "kill")
    faults.add("evaluation.committed", "kill")
    calm = Jobs(tmp_path / "calm")
    undisturbed = calm.evaluate(data, slice_by=["source"])

    start_worker(environment=faults.environment())
    request = EvaluationRequest(run="films", data=DataSpec(source=str(data)), slice_by=("source",), **HOW)
    evaluation = await client.start_evaluation(request)
    result = await evaluation.result()

    assert faults.num_struck() == 2, "both kills have hit"
    assert attempts_of(await evaluation.handle.fetch_history()) == 3
    assert measured(result) == measured(undisturbed)
    assert result.reused, "what the second attempt has committed is not computed again"
    store = EvaluationStore(open_store(None, home=home))
    assert store.find("films", result.evaluation).files == calm.store.find("films", result.evaluation).files

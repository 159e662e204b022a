"""What others rely on: public names, commands with their options, and all that is in a history.

A rename here breaks scripts, or strands workflows that are running. Additions are added below; a new field of
a wire type needs a default, since older histories lack it.
"""

from __future__ import annotations

import pytest
import typer.main
from temporalio import activity, workflow

import durabert
from durabert import contract, specs
from durabert.activities.devices import DeviceSlots
from durabert.cli.app import app
from durabert.client import Client
from durabert.plugin import DurabertPlugin
from durabert.workflows import WORKFLOWS

PUBLIC = """
    Client DataSpec DurabertError DurabertPlugin EvaluationResult ExperimentSpec FineTuneConfig
    FineTuneResult InfrastructureError Prediction RunFailed UserError __version__ evaluate fine_tune predict
"""

COMMANDS = {
    "demo": "--profile",
    "train": """data --name --config --model --epochs --batch-size --learning-rate --lr --max-length
        --precision --device --num-processes --seed --max-train-rows --set --run --text --text-pair --label
        --validation --test --data --in-order --from --checkpoint-every --seeds --eval-data --slice-by
        --max-concurrent --pattern --reuse --no-reuse --follow --no-follow --profile --json""",
    "predict": """run texts --pair --input --output --text --text-pair --row-id --precision --device --engine
        --shard-rows --concurrency --profile --json""",
    "export": "run --output --format --data --label --profile --json",
    "eval": """run data --split --slice-by --metric --text --text-pair --label --set --precision --device
        --profile --json""",
    "compare": "names --confidence --resamples --json",
    "promote": """run --to --min-metric --ignore-champion --require-approval --remind-hours --expire-hours
        --profile --json""",
    "approve": "promotion --reason --profile --json",
    "reject": "promotion --reason --profile --json",
    "registry": "name --open --profile --json",
    "sweep": """data --space --name --algorithm --trials --stopping --min-epochs --reduction-factor
        --concurrency --search-seed --final-seeds --budget-epochs --budget-seconds --metric --model --epochs
        --device --set --data --follow --no-follow --profile --json""",
    "adjust": "name --add-trials --concurrency --profile --json",
    "runs": "--profile --json",
    "show": "name --profile --json",
    "watch": "name --profile --json",
    "cancel": "name --profile --json",
    "pause": "name --profile --json",
    "resume": "name --queue --follow --no-follow --profile --json",
    "verify": "run --replay-steps --json",
    "replay": "run --save --profile --json",
    "audit": "run --output --profile --json",
    "reproduce": "run --name --profile --json",
    "report": "name --output --profile --json",
    "track": "name --to --follow --profile --json",
    "worker": "--train-queue --inference-queue --slots --drain-seconds --profile",
    "up": "--port --ui-port",
    "doctor": "--profile --json",
    "chaos": "scenarios --short --model --list --json",
    "data add": "source --validation --test --text --text-pair --label --data --json",
    "data list": "--json",
    "data show": "snapshot --json",
    "data verify": "snapshot --json",
    "data diff": "old new --text --text-pair --label --json",
    "schedule create": """name data --cron --every --time-zone --overlap --catch-up --promote-to --min-metric
        --require-approval --config --model --epochs --batch-size --learning-rate --lr --max-length --device
        --seed --set --text --text-pair --label --validation --test --data --eval-data --slice-by
        --checkpoint-every --profile --json""",
    "schedule list": "--profile --json",
    "schedule show": "name --profile --json",
    "schedule pause": "name --reason --profile --json",
    "schedule resume": "name --profile --json",
    "schedule trigger": "name --follow --no-follow --profile --json",
    "schedule backfill": "name --from --to --overlap --profile --json",
    "schedule delete": "name --profile --json",
    "store show": "--json",
    "store gc": "--older-than --dry-run --json",
    "store verify": "--json",
}

WORKFLOW_TYPES = {
    "BertFineTuningWorkflow": ("ExperimentSpec", "ExperimentResult"),
    "CheckpointedBertTrainingWorkflow": ("ExperimentSpec", "ExperimentResult"),
    "BertInferenceWorkflow": ("InferenceRequest", "InferenceResult"),
    "BertBatchInferenceWorkflow": ("BatchInferenceRequest", "BatchInferenceResult"),
    "BertExportWorkflow": ("ExportRequest", "ExportResult"),
    "BertEvalWorkflow": ("ExperimentSpec", "ExperimentResult"),
    "BertRunEvaluationWorkflow": ("EvaluationRequest", "EvaluationResult"),
    "BertPromotionWorkflow": ("PromotionRequest", "PromotionResult"),
    "BertSweepWorkflow": ("SweepSpec", "SweepResult"),
    "BertTrialWorkflow": ("TrialRequest", "TrialRecord"),
    "BertRetrainingWorkflow": ("RetrainingRequest", "RetrainingResult"),
}
UPDATES = {
    "BertFineTuningWorkflow": {"cancel_run": ("str", "RunOutcome")},
    "CheckpointedBertTrainingWorkflow": {"cancel_run": ("str", "RunOutcome")},
    "BertInferenceWorkflow": {},
    "BertBatchInferenceWorkflow": {},
    "BertExportWorkflow": {},
    "BertEvalWorkflow": {"cancel_run": ("str", "RunOutcome")},
    "BertRunEvaluationWorkflow": {},
    "BertPromotionWorkflow": {
        "approve": ("Decision", "PromotionState"),
        "reject": ("Decision", "PromotionState"),
    },
    "BertSweepWorkflow": {
        "set_paused": ("bool", "SweepControl"),
        "add_trials": ("int", "SweepControl"),
        "set_concurrency": ("int", "SweepControl"),
    },
    "BertTrialWorkflow": {},
    "BertRetrainingWorkflow": {},
}
SIGNALS = {
    "CheckpointedBertTrainingWorkflow": ["report"],
    "BertEvalWorkflow": ["report"],
    "BertTrialWorkflow": ["report"],
}
QUERIES = {
    "CheckpointedBertTrainingWorkflow": ["progress"],
    "BertEvalWorkflow": ["progress"],
    "BertBatchInferenceWorkflow": ["progress"],
    "BertPromotionWorkflow": ["state"],
    "BertSweepWorkflow": ["progress"],
    "BertTrialWorkflow": ["progress"],
    "BertRetrainingWorkflow": ["state"],
}
ACTIVITY_TYPES = {
    "create_dataset_snapshot": ("SnapshotRequest", "SnapshotResult"),
    "fine_tune_bert": ("FineTuneRequest", "FineTuneResult"),
    "run_bert_inference": ("InferenceRequest", "InferenceResult"),
    "plan_batch_inference": ("BatchInferenceRequest", "BatchPlan"),
    "commit_batch_inference": ("BatchCommit", "BatchInferenceResult"),
    "export_bert": ("ExportRequest", "ExportResult"),
    "plan_evaluations": ("EvaluationPlanRequest", "EvaluationPlan"),
    "evaluate_bert": ("EvaluationRequest", "EvaluationResult"),
    "check_promotion": ("PromotionRequest", "PromotionCheck"),
    "register_version": ("RegistryRequest", "RegistryVersion"),
    "plan_sweep": ("SweepPlanRequest", "SweepPlan"),
    "suggest_trial": ("SuggestionRequest", "Suggestion"),
    "find_champion": ("ModelRef", "Champion"),
}

FIELDS = {
    "DataSpec": """source! validation test text text_pair label format delimiter quoting encoding
        validation_fraction split_seed""",
    "TextsSpec": "path! text text_pair row_id format delimiter quoting encoding",
    "FineTuneConfig": """name model task epochs batch_size gradient_accumulation learning_rate weight_decay
        warmup_ratio schedule clip_norm max_length precision label_smoothing class_weights
        early_stopping_patience best_metric max_train_rows max_eval_rows seed device num_processes""",
    "ExperimentSpec": """name! data! runs in_order checkpoints start_from seeds max_concurrent
        evaluations reuse reproduces""",
    "EvaluationOptions": "split metrics slice_by confidence resamples seed bins worst precision device",
    "EvaluationSpec": """name data split metrics slice_by confidence resamples seed bins worst precision
        device""",
    "EvaluationRequest": """run! data! snapshot split metrics slice_by confidence resamples seed bins worst
        precision device""",
    "EvaluationResult": """evaluation! run! model_sha256! data! snapshot! split! rows! task! metric! metrics!
        intervals! confidence! calibration_error errors slices reused seconds! device! precision! attempts
        notices""",
    "EvaluationOutcome": "name! status! result error",
    "EvaluationPlanRequest": "data! snapshot! tasks! sets!",
    "PlannedEvaluation": "data! snapshot! split! rows!",
    "EvaluationPlan": "sets!",
    "ClassScores": "label! precision! recall! f1! support!",
    "ReliabilityBin": "low! high! rows! confidence! accuracy!",
    "SliceScores": "column! value! rows! metrics! intervals!",
    "EvaluationReport": "labels! per_class confusion calibration_error reliability slices",
    "CheckpointPolicy": "every_steps keep_last keep_every",
    "CheckpointRef": "run! step",
    "SnapshotRequest": "data!",
    "SnapshotResult": "snapshot! name! rows! columns! created! notices",
    "AttemptRecord": "number! worker! started! resumed_from last_step ended message",
    "AttemptReport": "number! worker! resumed_from ended message",
    "RunReport": """run! kind! attempt! worker! step steps epoch loss checkpoint_step resumed_from error
        message""",
    "RunProgress": "run! step steps epoch loss checkpoint_step attempts",
    "ExperimentProgress": "runs!",
    "FineTuneRequest": """experiment! run! data! config! snapshot checkpoints start_from reuse started_by
        reproduces until_epoch thresholds score_test""",
    "RowCounts": "train! validation! test",
    "EpochResult": "epoch! step! train_loss! metrics!",
    "FineTuneResult": """run! experiment! directory! task! labels! text_columns! model! model_sha256!
        data_sha256! config! steps! epochs! best_epoch! attempts! seconds! train_seconds! train_loss! metric!
        metrics! test_metrics history! rows! examples_per_second! peak_memory_mib! peak_device_memory_mib
        device! precision! deterministic! num_threads! notices versions snapshot parent state_sha256
        micro_batches num_processes attempt_log checkpoint_seconds profile finished reused_from lineage""",
    "Lineage": """inputs_sha256! base_model_sha256! code_sha256! hardware started_by reproduces""",
    "ModelRef": "name! alias version",
    "ApprovalPolicy": "remind_after_seconds expire_after_seconds",
    "PromotionRequest": "run! name! alias! min_metrics beat_champion approval requested_by!",
    "GateResult": "gate! passed! detail!",
    "PromotionCheck": "model_sha256! gates! champion",
    "Decision": "by! reason!",
    "DecisionRecord": "approved! by! reason! at!",
    "RegistryRequest": "promotion! check! decision execution!",
    "RegistryVersion": "name! version! run! model_sha256! metric! metrics! created! execution!",
    "AliasMove": "name! alias! number! version! at! by! gates! decision execution!",
    "PromotionState": "request! phase! gates waiting_since expires reminders decision",
    "PromotionResult": "status! run! name! alias! version before gates! decision reminders at!",
    "Champion": "version run model_sha256",
    "Standing": "name! rows! metric! value! interval! champion",
    "RetrainingTiming": "cron every_seconds time_zone overlap catch_up_seconds",
    "RetrainingPromotion": "name! alias! min_metrics approval",
    "RetrainingRequest": "experiment! spec_sha256! promotion started_by!",
    "RetrainingState": "phase! run",
    "RetrainingResult": """schedule! fired! status! reason! snapshot! spec_sha256! run! model_sha256!
        reused_from standings champion version gates""",
    "TrainingProfile": """tokens_per_second! model_gflops! peak_gflops! flop_utilisation! data_share!
        forward_share backward_share optimizer_share checkpoint_share""",
    "ErrorInfo": "type! message!",
    "RunOutcome": "run! status! result error evaluations",
    "ExperimentResult": "name! outcomes!",
    "Progress": """phase! step steps epoch epochs loss learning_rate examples_per_second tokens_per_second
        eta_seconds metrics process_id checkpoint_step attempt_log warnings""",
    "InferenceRequest": "run! texts input output precision device shard engine",
    "Prediction": "label labels confidence scores value",
    "InferenceResult": """run! model_sha256! rows! predictions output output_sha256 label_counts skipped
        seconds! texts_per_second! peak_memory_mib! device! precision! attempts notices engine""",
    "BatchInferenceRequest": "run! input! output! shard_rows concurrency precision device state",
    "BatchState": "plan! next_row! started!",
    "BatchPlan": "plan_sha256! snapshot! model_sha256! rows! shard_rows! first_row result",
    "BatchCommit": "output! plan_sha256!",
    "BatchProgress": """phase! rows rows_done shards shards_done in_flight rows_per_second eta_seconds""",
    "BatchInferenceResult": """run! model_sha256! snapshot! output! result_sha256! rows! predicted! errors!
        shards! label_counts notices reused seconds rows_per_second""",
    "RowRange": "first_row! num_rows! plan_sha256!",
    "BytePiece": "offset! size! sha256!",
    "RowGroupPiece": "offset! size! sha256! rows!",
    "ParquetPieces": "footer! groups!",
    "ShardPlan": """format run! model_sha256! task! labels! max_length! precision! snapshot! split!
        text_columns! row_id! numbered! rows! shard_rows! notices pieces!""",
    "ShardFile": "path! sha256! rows!",
    "ShardFacts": "plan_sha256! first_row! num_rows! label_counts truncated replaced device! precision!",
    "ShardRecord": "facts! predictions! errors",
    "Parameter": "log_uniform uniform integer choice when",
    "SweepSpec": """name! data! config space! algorithm trials stopping min_epochs reduction_factor
        concurrency reproducible seed final_seeds budget_epochs budget_seconds checkpoints state""",
    "SweepState": "snapshot! task! metric! started! control! trials jobs known",
    "SweepControl": "paused concurrency! trials!",
    "SweepPlanRequest": "data! snapshot! config!",
    "SweepPlan": "task! metric!",
    "SuggestionRequest": "space! algorithm! seed! number! lower_is_better! known",
    "Suggestion": "params!",
    "KnownTrial": "params! epochs! value complete",
    "TrialRequest": """sweep! number! data! snapshot! config! params suggestion until_epoch thresholds
        checkpoints!""",
    "TrialRecord": "number! status params values model_sha256 state_sha256 seconds error",
    "RungProgress": "epochs! reached! running!",
    "SweepProgress": "name! phase! metric control! rungs! epochs best trials final",
    "SweepResult": "name! task! metric! snapshot! trials! best! final seconds!",
    "FinalRun": "run! seed! metrics test_metrics model_sha256 error",
    "FinalResult": "config! runs! test_mean test_std error",
    "ExportRequest": "run! format! output! data",
    "ParityReport": """rows! labels_equal! metric! reference! exported! tolerance! largest_difference!
        data_sha256!""",
    "ExportResult": """run! format! output! model_sha256! onnx_sha256 size! already_there parity seconds!
        attempts notices versions""",
}
"""Wire types with their fields; ``!``: required."""

ERRORS = """
    UserError SpecInvalid NameInvalid NameInUse DataNotFound DataInvalid ColumnMissing ColumnAmbiguous
    LabelsInvalid ModelNotFound ModelInvalid DeviceMissing TextsInvalid RunNotFound RunNotUsable
    EngineUnavailable DependencyMissing StoreInvalid SnapshotNotFound OutputInUse CheckpointNotUsable
    ModelNotRegistered PromotionNotOpen PromotionPending ScheduleNotFound
    RunFailed TrainingDiverged ArtifactDamaged ExportRefused RunCancelled InfrastructureError ProcessKilled
    ProcessStalled DeviceFault OutOfMemory StoreUnavailable DivergenceSuspected AttemptSuperseded
    WorkerLost RunPaused WorkerStopping UnexpectedError
"""
"""Class names of errors are in histories, as the types of failures."""


def test_the_package_exports_these_names():
    assert sorted(durabert.__all__) == sorted(PUBLIC.split())
    assert all(hasattr(durabert, name) for name in durabert.__all__)


def test_the_command_line_has_these_commands_and_options():
    group = typer.main.get_command(app)

    assert {name: sorted(words_of(command)) for name, command in commands_of(group)} == {
        name: sorted(words.split()) for name, words in COMMANDS.items()
    }


def commands_of(group, prefix=""):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def words_of(command) -> list[str]:
    words = []
    for parameter in command.params:
        argument = parameter.param_type_name == "argument"
        words += [parameter.name] if argument else [*parameter.opts, *parameter.secondary_opts]
    return words


def test_workflows_have_these_names_and_types():
    found = {definition.name: names_of(definition) for definition in map(workflow_definition, WORKFLOWS)}

    assert found == WORKFLOW_TYPES


def test_workflows_have_these_updates_signals_and_queries():
    for definition in map(workflow_definition, WORKFLOWS):
        updates = {name: names_of(update) for name, update in definition.updates.items()}
        assert updates == UPDATES[definition.name]
        assert [name for name in definition.signals if name] == SIGNALS.get(definition.name, [])
        assert [name for name in definition.queries if name] == QUERIES.get(definition.name, [])


def workflow_definition(kind):
    return workflow._Definition.must_from_class(kind)


def names_of(definition) -> tuple[str, str]:
    [argument] = definition.arg_types
    return argument.__name__, definition.ret_type.__name__


def test_activities_have_these_names_and_types():
    contracts = [one for one in vars(contract).values() if isinstance(one, contract.ActivityContract)]

    assert {one.name: (one.request.__name__, one.result.__name__) for one in contracts} == ACTIVITY_TYPES


def test_a_worker_hosts_these_activities_and_workflows(tmp_path):
    plugin = DurabertPlugin(home=tmp_path, slots=DeviceSlots([None]))

    hosted = {activity._Definition.must_from_callable(one).name for one in plugin.activities}
    assert hosted == set(ACTIVITY_TYPES)
    assert plugin.workflows == WORKFLOWS


@pytest.mark.parametrize("name", FIELDS)
def test_wire_types_have_these_fields(name):
    fields = getattr(specs, name).model_fields
    shown = [f"{field}{'!' if info.is_required() else ''}" for field, info in fields.items()]

    assert sorted(shown) == sorted(FIELDS[name].split())


def test_all_wire_types_are_frozen_here():
    kinds = {name for name in specs.__all__ if hasattr(getattr(specs, name), "model_fields")}

    assert kinds - {"Wire"} == set(FIELDS)


def test_errors_have_these_names():
    assert sorted(names_below(durabert.DurabertError)) == sorted(ERRORS.split())


def names_below(kind: type) -> list[str]:
    children = [child for child in kind.__subclasses__() if child.__module__ == "durabert.errors"]
    return [name for child in children for name in (child.__name__, *names_below(child))]


def test_names_on_the_server_stay_as_they_are():
    assert contract.DEFAULT_TASK_QUEUE == "bert-finetune-task-queue"
    assert contract.SPEC_DIGEST_MEMO == "durabert_spec_sha256"
    assert contract.TIMING_MEMO == "durabert_timing"
    assert contract.SEARCH_ATTRIBUTES == {
        "DurabertExperiment": "Keyword",
        "DurabertModel": "KeywordList",
        "DurabertDataset": "Keyword",
        "DurabertTask": "Keyword",
        "DurabertStatus": "Keyword",
        "DurabertBestMetric": "Double",
    }


def test_the_client_has_these_methods():
    methods = {name for name in vars(Client) if not name.startswith("_")}

    assert methods == {
        "connect", "start", "status", "run_status", "watch", "wait", "experiments", "cancel", "predict",
        "start_prediction", "start_batch", "batch", "history", "pause", "resume", "export", "start_export",
        "evaluate", "start_evaluation",
        "start_promotion", "promotion",
        "start_sweep", "sweep", "sweeps", "resume_sweep", "schedules",
    }  # fmt: skip

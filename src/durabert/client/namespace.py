"""What a namespace knows of durabert: search attributes and workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import IndexedValueType, TaskQueueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.service import RPCError

from durabert.contract import SEARCH_ATTRIBUTES

if TYPE_CHECKING:
    from temporalio.client import Client as TemporalClient


async def register_search_attributes(temporal: TemporalClient) -> bool:
    """Register what is missing where the server lets us, and return whether all are there.

    A namespace without them works, too; its experiments are just not found by model or metric.
    """
    operator, namespace = temporal.operator_service, temporal.namespace
    try:
        known = await operator.list_search_attributes(ListSearchAttributesRequest(namespace=namespace))
        missing = SEARCH_ATTRIBUTES.keys() - known.custom_attributes.keys()
        if missing:
            await operator.add_search_attributes(
                AddSearchAttributesRequest(
                    namespace=namespace,
                    search_attributes={name: _indexed(SEARCH_ATTRIBUTES[name]) for name in missing},
                )
            )
    except RPCError:
        return False
    return True


async def num_pollers(temporal: TemporalClient, queue: str) -> int:
    """Return how many workers have asked a queue for activities in the last minutes."""
    answer = await temporal.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=temporal.namespace,
            task_queue=TaskQueue(name=queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
        )
    )
    return len(answer.pollers)


def _indexed(kind: str) -> IndexedValueType.ValueType:
    names = {"Keyword": "KEYWORD", "KeywordList": "KEYWORD_LIST", "Double": "DOUBLE"}
    return IndexedValueType.Value(f"INDEXED_VALUE_TYPE_{names[kind]}")

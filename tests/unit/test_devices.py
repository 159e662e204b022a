"""Slots: which devices a run gets, and who waits for whom."""

from __future__ import annotations

import asyncio

import pytest

from durabert.activities.devices import DeviceSlots, Places
from durabert.errors import DeviceMissing, SpecInvalid
from durabert.specs import FineTuneConfig


async def holding(slots: DeviceSlots, count: int, order: list[str], name: str, let_go: asyncio.Event) -> None:
    async with slots.take(count) as devices:
        order.append(f"{name}: {','.join(device or 'cpu' for device in devices)}")
        await let_go.wait()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_run_gets_a_device_of_its_own_for_each_process():
    slots = DeviceSlots(["0", "1", "0", "1"])
    assert (slots.num_slots, slots.gpus) == (4, ("0", "1"))

    async with slots.take(2) as first, slots.take(2) as second:
        assert first == second == ["0", "1"]


async def test_who_came_first_is_served_first():
    slots, order = DeviceSlots(["0", "1"]), []
    names = [("small", 1), ("large", 2), ("late", 1)]
    let_go = {name: asyncio.Event() for name, _ in names}
    tasks = []
    for name, count in names:
        tasks.append(asyncio.create_task(holding(slots, count, order, name, let_go[name])))
        await settled()

    assert order == ["small: 0"], "the late one does not pass the large one by"
    let_go["small"].set()
    await settled()
    assert order[1:] == ["large: 1,0"]
    let_go["large"].set()
    let_go["late"].set()
    await asyncio.gather(*tasks)
    assert order[2] == "late: 1"


async def test_who_is_cancelled_while_waiting_holds_nothing():
    slots, order = DeviceSlots(["0", "1"]), []
    async with slots.take():
        waiting = asyncio.create_task(holding(slots, 2, order, "large", asyncio.Event()))
        await settled()
        waiting.cancel()
        await asyncio.wait([waiting])
        async with slots.take() as devices:
            assert devices == ["1"]
    assert order == []


@pytest.mark.parametrize(
    ("fields", "gpus", "places"),
    [
        ({}, (), (1, 1)),
        ({}, ("0", "1"), (1, 1)),
        ({"num_processes": 2}, (), (2, 1)),
        ({"num_processes": 2}, ("0", "1", "2"), (2, 2)),
        ({"num_processes": 2, "device": "cpu"}, ("0",), (2, 1)),
        ({"num_processes": "auto"}, (), (1, 1)),
        ({"num_processes": "auto"}, ("0", "1", "2"), (3, 3)),
        ({"num_processes": "auto", "batch_size": 2}, ("0", "1", "2"), (2, 2)),
        ({"num_processes": "auto", "device": "cuda:1"}, ("0", "1"), (1, 1)),
        ({"num_processes": "auto", "device": "cuda"}, (), (1, 1)),
    ],
)
def test_processes_are_spread_over_gpus_where_there_are_some(fields, gpus, places):
    assert Places.of(FineTuneConfig(**fields), gpus) == Places(*places)


@pytest.mark.parametrize(
    ("fields", "gpus", "says"),
    [
        (
            {},
            ("0", "1"),
            "num_processes is 3, but should be at most 2, the GPUs of the worker",
        ),
        (
            {"device": "cuda"},
            (),
            "num_processes is 3 on 'cuda', but the worker has no GPU",
        ),
    ],
)
def test_more_processes_than_gpus_are_a_mistake(fields, gpus, says):
    with pytest.raises(DeviceMissing, match=f"^{says}$"):
        Places.of(FineTuneConfig(num_processes=3, **fields), gpus)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_processes": 0}, "num_processes is 0, but should be 'auto' or be greater than or equal to 1"),
        ({"num_processes": "two"}, "num_processes is 'two', but should be 'auto' or be a valid integer"),
        ({"num_processes": 4, "batch_size": 3}, "num_processes is 4, but should be at most batch_size, 3"),
        (
            {"num_processes": 2, "device": "cuda:1"},
            "num_processes is 2, but should be 1 on 'cuda:1', which is one device",
        ),
        (
            {"num_processes": 2, "device": "mps"},
            "num_processes is 2, but should be 1 on 'mps', which is one device",
        ),
    ],
)
def test_a_number_of_processes_that_cannot_be_is_one_sentence(fields, says):
    with pytest.raises(SpecInvalid) as raised:
        FineTuneConfig.parse(fields)
    assert str(raised.value) == says

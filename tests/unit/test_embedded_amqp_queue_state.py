"""The pure queue: order, conservation and limits under any interleaving of what channels can do."""

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from callboard_runtime.embedded.amqp import properties
from callboard_runtime.embedded.amqp.message import Message
from callboard_runtime.embedded.amqp.options import QueueOptions
from callboard_runtime.embedded.amqp.properties import Field
from callboard_runtime.embedded.amqp.queue_state import MemoryGauge, QueueState


def _message(number: int, *, expiration_ms: int | None = None) -> Message:
    raw = properties.EMPTY
    if expiration_ms is not None:
        raw = properties.with_text(raw, Field.EXPIRATION, str(expiration_ms))
    return Message.create("", "q", raw, b"%06d" % number)


class QueueMachine(RuleBasedStateMachine):
    """Channels take, acknowledge, return and die in any order; the model is a sorted set of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.gauge = MemoryGauge(10**9)
        self.state = QueueState(QueueOptions(kind="quorum", durable=True, delivery_limit=3), self.gauge)
        self.published = 0
        self.ready: set[int] = set()
        self.out: dict[int, list[int]] = {0: [], 1: [], 2: []}
        self.returns: dict[int, int] = {}
        self.size = _message(0).size

    @rule()
    def publish(self) -> None:
        assert self.state.offer(_message(self.published), 0.0)
        self.ready.add(self.published)
        self.returns[self.published] = 0
        self.published += 1

    @rule(channel=st.integers(0, 2))
    def deliver(self, channel: int) -> None:
        entry = self.state.take()
        if entry is None:
            assert not self.ready
            return
        number = int(entry.message.body)
        assert number == min(self.ready), "an older message was ready"
        assert entry.returns == self.returns[number]
        self.ready.remove(number)
        self.out[channel].append(entry.position)
        assert entry.position == number

    @precondition(lambda self: any(self.out.values()))
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        channel, index = self._pick(data)
        self.state.ack(self.out[channel].pop(index))

    @precondition(lambda self: any(self.out.values()))
    @rule(data=st.data())
    def reject(self, data: st.DataObject) -> None:
        channel, index = self._pick(data)
        dropped = self.state.reject(self.out[channel].pop(index))
        assert [drop.reason for drop in dropped] == ["rejected"]

    @precondition(lambda self: any(self.out.values()))
    @rule(data=st.data())
    def requeue_one(self, data: st.DataObject) -> None:
        channel, index = self._pick(data)
        self._requeue([self.out[channel].pop(index)])

    @rule(channel=st.integers(0, 2))
    def close_channel(self, channel: int) -> None:
        positions, self.out[channel] = self.out[channel], []
        self._requeue(positions)

    @invariant()
    def counts_agree(self) -> None:
        out = sum(map(len, self.out.values()))
        assert len(self.state) == len(self.ready)
        assert self.state.unacked == out
        assert self.gauge.held == (len(self.ready) + out) * self.size
        assert self.state.ready_bytes == len(self.ready) * 6

    def _requeue(self, positions: list[int]) -> None:
        dropped = self.state.requeue(positions)
        for position in positions:
            self.returns[position] += 1
        over = [position for position in positions if self.returns[position] > 3]
        assert [int(drop.message.body) for drop in dropped] == over
        assert {drop.reason for drop in dropped} <= {"delivery_limit"}
        self.ready.update(set(positions) - set(over))

    def _pick(self, data: st.DataObject) -> tuple[int, int]:
        channel = data.draw(st.sampled_from([channel for channel, held in self.out.items() if held]))
        return channel, data.draw(st.integers(0, len(self.out[channel]) - 1))


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(0, 8), st.integers(0, 60))
def test_drop_head_keeps_the_newest_within_both_limits(sizes: list[int], length: int, size: int) -> None:
    state = QueueState(QueueOptions(max_length=length, max_bytes=size), MemoryGauge(10**9))
    model: deque[bytes] = deque()
    for body in (bytes(count) for count in sizes):
        assert state.offer(Message.create("", "q", properties.EMPTY, body), 0.0)
        state.trim()
        model.append(body)
        while model and (len(model) > length or sum(map(len, model)) > size):
            model.popleft()
        assert len(state) == len(model)
    kept = [entry.message.body for entry in iter(state.take, None)]
    assert kept == list(model)


def test_reject_publish_counts_what_is_ready_only() -> None:
    state = QueueState(QueueOptions(max_length=2, overflow="reject-publish"), MemoryGauge(10**9))
    assert [state.offer(_message(number), 0.0) for number in range(3)] == [True, True, False]
    state.take()
    assert state.offer(_message(3), 0.0)
    assert state.trim() == []


@given(st.lists(st.one_of(st.none(), st.integers(0, 100)), max_size=20), st.integers(0, 120))
def test_messages_expire_at_the_head_only(expirations: list[int | None], now_ms: int) -> None:
    state = QueueState(QueueOptions(), MemoryGauge(10**9))
    for number, expiration in enumerate(expirations):
        state.offer(_message(number, expiration_ms=expiration), 0.0)
    dropped = [int(drop.message.body) for drop in state.expire(now_ms / 1000)]
    survivors = (index for index, ms in enumerate(expirations) if ms is None or ms > now_ms)
    first_kept = next(survivors, len(expirations))
    assert dropped == list(range(first_kept))


def test_clear_releases_all_memory() -> None:
    gauge = MemoryGauge(10**9)
    state = QueueState(QueueOptions(), gauge)
    for number in range(4):
        state.offer(_message(number), 0.0)
    taken = state.take()
    assert taken is not None
    assert state.clear() == 3
    assert gauge.held == 0
    assert state.requeue([taken.position]) == []
    assert len(state) == 0

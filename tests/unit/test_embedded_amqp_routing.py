"""Topic patterns and consumer choice, against naive models."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_runtime.embedded.amqp.consumers import ConsumerGroup
from callboard_runtime.embedded.amqp.errors import ChannelFault
from callboard_runtime.embedded.amqp.exchange import Binding, Exchange, ExchangeOptions, TopicTable, topic_matches
from callboard_runtime.embedded.amqp.options import QueueOptions, parse_options
from callboard_runtime.embedded.amqp.queue_state import Entry


@given(
    st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=6).map(".".join),
    st.lists(st.sampled_from(["a", "b", "c"]), max_size=6).map(".".join),
)
def test_topic_matching_agrees_with_the_definition(pattern: str, key: str) -> None:
    assert topic_matches(pattern, key) == _naive(pattern.split("."), key.split(".") if key else [])


def _naive(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_naive(pattern[1:], words[skip:]) for skip in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _naive(pattern[1:], words[1:])


def test_many_hashes_do_not_explode() -> None:
    assert not topic_matches(".".join(["#"] * 60 + ["z"]), ".".join(["a"] * 120))


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["a", "a.*", "#", "b.#"])), max_size=20), st.data())
def test_topic_table_remembers_no_stale_answer(changes: list[tuple[bool, str]], data: st.DataObject) -> None:
    table, bound = TopicTable(), set[str]()
    target = Exchange("target", ExchangeOptions("fanout"))
    for add, pattern in changes:
        if add:
            table.add(Binding.create(target, pattern, None))
            bound.add(pattern)
        elif pattern in bound:
            table.remove(Binding.create(target, pattern, None))
            bound.remove(pattern)
        key = data.draw(st.sampled_from(["a", "a.b", "b", "b.c.d", ""]))
        found = {binding.routing_key for binding in table.match(key, dict)}
        assert found == {known for known in bound if topic_matches(known, key)}


@dataclass(eq=False)
class _Taker:
    priority: int = 0
    exclusive: bool = False
    room: bool = True
    got: list[int] = field(default_factory=list[int])

    def can_take(self) -> bool:
        return self.room

    def deliver(self, entry: Entry) -> None:
        self.got.append(entry.position)

    def queue_deleted(self) -> None:
        self.room = False


def test_round_robin_among_the_highest_priority_with_room() -> None:
    group = ConsumerGroup(single_active=False)
    high, other_high, low = _Taker(priority=1), _Taker(priority=1), _Taker()
    for taker in (low, high, other_high):
        group.add(taker)
    assert [group.next_ready() for _ in range(4)] == [high, other_high, high, other_high]
    high.room = other_high.room = False
    assert group.next_ready() is low


def test_single_active_consumer_is_the_oldest_even_without_room() -> None:
    group = ConsumerGroup(single_active=True)
    first, second = _Taker(room=False), _Taker(priority=9)
    group.add(first)
    group.add(second)
    assert group.next_ready() is None
    group.remove(first)
    assert group.next_ready() is second


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"x-max-length": "5"}, "x-max-length"),
        ({"x-max-length": True}, "x-max-length"),
        ({"x-expires": 0}, "x-expires"),
        ({"x-message-ttl": 2**40}, "x-message-ttl"),
        ({"x-overflow": "explode"}, "x-overflow"),
        ({"x-queue-type": "stream"}, "x-queue-type"),
        ({"x-single-active-consumer": 1}, "x-single-active-consumer"),
        ({"x-dead-letter-exchange": 7}, "x-dead-letter-exchange"),
        ({"x-dead-letter-routing-key": "k"}, "x-dead-letter-exchange"),
        ({"x-delivery-limit": 3}, "x-queue-type"),
        ({"x-max-priority": 3}, "x-max-priority"),
    ],
)
def test_bad_queue_arguments_are_named(arguments: dict[str, object], names: str) -> None:
    with pytest.raises(ChannelFault, match=names) as raised:
        parse_options(arguments, durable=True, exclusive=False, auto_delete=False)  # pyright: ignore[reportArgumentType]
    assert raised.value.code == 406


def test_a_quorum_queue_is_durable_and_shared() -> None:
    quorum = {"x-queue-type": "quorum"}
    with pytest.raises(ChannelFault, match="durable"):
        parse_options(quorum, durable=False, exclusive=False, auto_delete=False)
    with pytest.raises(ChannelFault, match="exclusive"):
        parse_options(quorum, durable=True, exclusive=True, auto_delete=False)


def test_difference_names_the_argument_on_the_wire() -> None:
    assert QueueOptions(max_length=1).difference(QueueOptions(max_length=2)) == "x-max-length"
    assert QueueOptions(durable=True).difference(QueueOptions()) == "durable"
    assert QueueOptions().difference(QueueOptions()) is None

"""One decision in the making: each event that is said is applied to the snapshot that the next one sees."""

from __future__ import annotations

from callboard_actors.evolve import evolve
from callboard_actors.facts import Facts
from callboard_runtime.domain import events as e
from callboard_runtime.domain.event_batch import AguiEvent, EventBatch, batch
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.domain.state_snapshot import ActiveRun, StateSnapshot


class Turn:
    """The snapshot so far and the events said so far."""

    def __init__(self, snapshot: StateSnapshot, facts: Facts) -> None:
        self.snapshot = snapshot
        self.facts = facts
        self.events: list[e.Event] = []

    def say(self, event: e.Event) -> None:
        self.events.append(event)
        self.snapshot = evolve(self.snapshot, event)

    @property
    def active(self) -> ActiveRun:
        """The active run; asking without one is a bug in a handler."""
        if self.snapshot.active is None:
            raise AssertionError("the session has no active run")
        return self.snapshot.active

    def append_messages(self, run: ActiveRun, messages: tuple[NewMessage, ...]) -> None:
        """Give rows to the messages that the session does not have yet, in order."""
        fresh: dict[str, NewMessage] = {}
        for message in messages:
            if not self.has_message(message.message_id):
                fresh.setdefault(message.message_id, message)
        if fresh:
            first_seq = self.snapshot.message_count + 1
            self.say(e.MessagesAppended(run.run_id, first_seq, tuple(fresh.values())))

    def has_message(self, message_id: str) -> bool:
        """Whether the session has, or gets in this turn, a message of this id; of those that the command names."""
        said = (event for event in self.events if isinstance(event, e.MessagesAppended))
        return message_id in self.facts.known_messages or any(
            message.message_id == message_id for event in said for message in event.messages
        )

    def commit_events(self, events: EventBatch, *, closing: bool = False, publish: bool = False) -> None:
        """Add a batch to the log, behind what is there."""
        if events.lines:
            run, previous = self.active, self.snapshot.log_position
            self.say(e.EventsCommitted(run.run_id, run.leg, events, previous, closing, publish))

    def number(self, events: list[AguiEvent]) -> EventBatch:
        """Number `events` as the next ones of the present epoch."""
        s = self.snapshot
        return batch(s.epoch, s.log_seq + 1 if s.log_epoch == s.epoch else 1, events)

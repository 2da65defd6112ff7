"""What must hold of a run that ended, whatever was done to the processes meanwhile, by HTTP and by the database."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import pairwise

from front_client import TERMINAL, Frame, FrontClient, Json, Reader
from stack import Callboard
from unit.agui_verifier import verify
from waiting import until

ENDED = frozenset({"succeeded", "failed", "cancelled"})


async def ended(client: FrontClient, run: str, *, timeout: float = 60.0) -> Json:
    """Wait for the run's end and return it."""

    async def has_ended() -> Json | None:
        shown = await client.run(run)
        return shown if shown["status"] in ENDED else None

    return await until(has_ended, f"end of {run}", timeout=timeout)


async def check_run(
    callboard: Callboard,
    client: FrontClient,
    run: str,
    *,
    readers: Iterable[Reader] = (),
    status: str = "succeeded",
    text: str | None = None,
) -> Json:
    """One end, a gapless log that every reader saw once, whole messages, conserved usage. Returns the run."""
    shown = await ended(client, run)
    assert shown["status"] == status, shown
    thread = shown["session_id"]
    log = of_run(await client.log(thread), run)
    if log or status == "succeeded":
        check_log(log)
    for reader in readers:
        (check_reader if log else check_never_started)(reader, log)
    answers = [m for m in await client.messages(thread) if m["role"] == "assistant" and m["run_id"] == run]
    if text is not None:
        assert [answer["content"] for answer in answers if answer["content"]] == [text], answers
    await check_messages(client, thread)
    await check_usage(callboard, client, thread)
    return shown


def of_run(log: Sequence[Frame], run: str) -> list[Frame]:
    """The events of one run of a session's log: from its RUN_STARTED to the next run's."""
    found: list[Frame] = []
    inside = False
    for frame in log:
        if frame.type == "RUN_STARTED":
            inside = frame.event["runId"] == run
        if inside:
            found.append(frame)
    return found


def check_log(log: Sequence[Frame]) -> None:
    """A run of one leg: one start, one end, in the numbering of its epochs no gap, and lawful for every client."""
    types = [frame.type for frame in log]
    assert types.count("RUN_STARTED") == 1, types
    assert sum(kind in TERMINAL for kind in types) == 1, types
    assert types[-1] in TERMINAL, types
    check_numbering(log)
    verify(frame.event for frame in log)


def check_numbering(log: Sequence[Frame]) -> None:
    """Ids rise; inside an epoch each is the one before plus one; an epoch begins with 1."""
    ids = [frame.id for frame in log if frame.id]
    assert len(ids) == len(log)
    for (epoch, seq), (next_epoch, next_seq) in pairwise([(0, 0), *ids]):
        assert (next_epoch == epoch and next_seq == seq + 1) or (next_epoch > epoch and next_seq == 1), ids


def check_reader(reader: Reader, log: Sequence[Frame]) -> None:
    """The reader saw each committed event once and in order, nothing unlawful in between, and the end."""
    seen = reader.logged
    ids = [frame.id for frame in seen]
    assert ids == sorted(set(ids)), ids  # type: ignore[type-var]
    committed = {frame.id for frame in log}
    withdrawn = [frame for frame in seen if frame.id not in committed]
    due = without_leading_closings(log) if withdrawn else list(log)
    assert [frame for frame in seen if frame.id in committed and frame in due] == due
    assert reader.frames[-1].event == log[-1].event
    verify(frame.event for frame in reader.frames)


def check_never_started(reader: Reader, log: Sequence[Frame]) -> None:
    """A run that ended before its turn has no events: its reader is told of the end all the same, without ids."""
    assert [frame.type for frame in reader.frames][:1] == ["RUN_STARTED"]
    assert [frame.type in TERMINAL for frame in reader.frames] == [False, True]
    assert not reader.logged
    assert not log


def without_leading_closings(log: Sequence[Frame]) -> list[Frame]:
    """The log without what the later epochs begin by closing: whoever saw more than that got closings of their own."""
    kept: list[Frame] = []
    for frame in log:
        closes = frame.type.endswith(("_END", "_FINISHED")) and frame.type not in TERMINAL
        first = not kept or frame.id is None or kept[-1].id is None or kept[-1].id[0] != frame.id[0]
        if not (closes and first and kept):
            kept.append(frame)
    return kept


async def check_messages(client: FrontClient, thread: str) -> None:
    """seq counts 1, 2, 3…; no message id twice; each run's user message stands before its answer."""
    messages = await client.messages(thread)
    assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1))
    ids = [message["id"] for message in messages]
    assert len(ids) == len(set(ids))
    assert (await client.session(thread))["message_count"] == len(messages)
    for run in {message["run_id"] for message in messages}:
        roles = [message["role"] for message in messages if message["run_id"] == run]
        assert roles[0] == "user", messages


async def check_usage(callboard: Callboard, client: FrontClient, thread: str) -> None:
    """The rows of the provider requests add up to their runs, and these to the session."""
    calls, session = await client.calls(thread), await client.session(thread)
    for name in ("input_tokens", "output_tokens"):
        assert sum(call[name] for call in calls) == session["usage"][name], (calls, session)
    assert sum(Decimal(call["cost"]) for call in calls if call["cost"]) == Decimal(session["usage"]["cost"])
    for run in {call["run_id"] for call in calls}:
        shown = await client.run(run)
        own = [call for call in calls if call["run_id"] == run]
        assert shown["usage"]["calls"] == len(own), (own, shown)
        assert shown["usage"]["input_tokens"] == sum(call["input_tokens"] for call in own)
        assert shown["usage"]["output_tokens"] == sum(call["output_tokens"] for call in own)
        if shown["status"] in ENDED:
            assert all(call["status"] != "begun" for call in own), own

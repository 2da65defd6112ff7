"""What a reader was shown and the log will never have: it is withdrawn, on whichever front the reader comes back."""

from __future__ import annotations

from callboard_runtime.settings import Settings

from .http_harness import Backstage, Front, Leg, delta, events, finished, numbered, serving, started

EVENTS = "/api/v1/agent/runs/r1/events?from=start"
START = {"type": "TEXT_MESSAGE_START", "messageId": "m1", "role": "assistant"}
END = {"type": "TEXT_MESSAGE_END", "messageId": "m1"}
CALL = {"type": "TOOL_CALL_START", "toolCallId": "c1", "toolCallName": "f"}
CALL_END = {"type": "TOOL_CALL_END", "toolCallId": "c1"}
SNAPSHOT = {"type": "MESSAGES_SNAPSHOT", "messages": []}


async def speaking(stage: Backstage) -> Leg:
    """A leg whose text the log has left open."""
    leg = await stage.add_run()
    await stage.begin(leg)
    await stage.emit(leg, START)
    await stage.commit(leg)
    return leg


async def test_a_takeover_goes_on_in_the_next_epoch(front: Front, stage: Backstage):
    leg = await stage.add_run()
    await stage.begin(leg)
    async with front.stream(EVENTS) as response:
        await stage.emit(leg, delta("a"), delta("adopted"))
        await stage.commit(leg)
        seen = list(leg.sent)
        await stage.begin(leg, 2, SNAPSHOT)
        await stage.close(leg)
        assert await events(response) == numbered(1, 1, seen) + numbered(2, 1, leg.sent)


async def test_what_was_shown_and_never_committed_is_withdrawn(front: Front, stage: Backstage):
    """Redis had lost the tail, so that nobody could adopt it: this reader saw more than the log will ever have."""
    leg = await speaking(stage)
    async with front.stream(EVENTS) as response:
        await events(response, 2)
        await stage.emit(leg, END, CALL, tail=False)
        await events(response, 2)
        await stage.begin(leg, 2, END, SNAPSHOT)  # closes m1, which the log left open
        await stage.close(leg)
        assert await events(response) == [(None, CALL_END), *numbered(2, 2, [SNAPSHOT, finished()])]
    async with front.stream(EVENTS) as response:  # a reader who saw no more gets the log as it is
        assert await events(response) == numbered(1, 1, [started(), START]) + numbered(2, 1, leg.sent)


async def test_a_reader_comes_back_with_what_was_withdrawn(front: Front, settings: Settings, stage: Backstage):
    """Here another reader's connection knows what it saw; a front that showed it to nobody says so."""
    leg = await speaking(stage)
    async with front.stream(EVENTS) as response:
        await events(response, 2)
        await stage.emit(leg, END, CALL, tail=False)
        assert await events(response, 2) == numbered(1, 3, [END, CALL])
    await stage.tail.delete(leg.key.session_id)  # as Redis does that starts empty
    async with serving(settings) as other, other.stream(EVENTS, headers={"Last-Event-ID": "1-4"}) as stranger:
        async with front.stream(EVENTS, headers={"Last-Event-ID": "1-4"}) as early:
            await stage.begin(leg, 2, END, SNAPSHOT)
            assert await events(early, 2) == [(None, CALL_END), ("2-2", SNAPSHOT)]
        assert await events(stranger) == [], "it ends, to be opened anew"
        answer = await other.call("GET", EVENTS, headers={"Last-Event-ID": "1-4"})
        assert (answer.status, answer.json["code"]) == (410, "GONE")
    await stage.close(leg)
    for cursor, own in (("1-4", [CALL_END]), ("1-3", [])):
        async with front.stream(EVENTS, headers={"Last-Event-ID": cursor}) as late:
            told = [(None, event) for event in own]
            assert await events(late) == [*told, *numbered(2, 2, [SNAPSHOT, finished()])]
    async with front.stream(EVENTS, headers={"Last-Event-ID": "1-2"}) as late:
        assert await events(late) == numbered(2, 1, leg.sent)

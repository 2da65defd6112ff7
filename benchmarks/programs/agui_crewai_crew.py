"""The same one-agent crew in AG-UI's own integration of CrewAI: a flow that streams the crew's answer, nothing kept.

The integration itself shows nothing of what a crew's agents say, so the flow passes on the pieces that CrewAI streams.
It runs in an environment of its own; see `--agui-crewai` in benchmarks/README.md.
"""

from uuid import uuid4

from ag_ui.core import EventType
from ag_ui_crewai.events import BridgedTextMessageChunkEvent
from ag_ui_crewai.sdk import CopilotKitState
from crewai import LLM, Agent, Crew, Task
from crewai.events.event_bus import crewai_event_bus
from crewai.flow.flow import Flow, start

from benchmarks.programs.agui_served import MODEL, serve

LLM_OF_ALL = LLM(model="openai/bench", base_url=MODEL, api_key="none", stream=True, is_litellm=True)


class Chat(Flow[CopilotKitState]):
    @start()
    async def chat(self) -> None:
        agent = Agent(role="Assistant", goal="Answer the user.", backstory="You are helpful.", llm=LLM_OF_ALL)
        task = Task(description="{question}", expected_output="An answer", agent=agent)
        crew = Crew(agents=[agent], tasks=[task], stream=True)
        answer = await crew.akickoff(inputs={"question": self.state.messages[-1]["content"]})
        message = str(uuid4())
        async for piece in answer:
            said = {"message_id": message, "role": "assistant", "delta": piece.content}
            crewai_event_bus.emit(self, BridgedTextMessageChunkEvent(type=EventType.TEXT_MESSAGE_CHUNK, **said))
        self.state.messages.append({"id": message, "role": "assistant", "content": answer.result.raw})


if __name__ == "__main__":
    serve(Chat())

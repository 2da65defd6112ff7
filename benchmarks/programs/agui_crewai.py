"""AG-UI's own integration of CrewAI, as its documentation shows it: a flow with one model call, nothing kept.

It pins an older FastAPI, so it runs in an environment of its own; see `--agui-crewai` in benchmarks/README.md.
"""

import litellm
from ag_ui_crewai.sdk import CopilotKitState, copilotkit_stream
from crewai.flow.flow import Flow, start

from benchmarks.programs.agui_served import MODEL, serve


class Chat(Flow[CopilotKitState]):
    @start()
    async def chat(self) -> None:
        answer = await copilotkit_stream(
            await litellm.acompletion(
                model="openai/bench",
                api_base=MODEL,
                api_key="none",
                stream=True,
                messages=[*self.state.messages],
            )
        )
        self.state.messages.append(answer.choices[0]["message"])


if __name__ == "__main__":
    serve(Chat())

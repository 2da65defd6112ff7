"""AG-UI's own integration of CrewAI, as its documentation shows it: a flow with one model call, nothing kept.

It pins an older FastAPI, so it runs in an environment of its own; see `--agui-crewai` in benchmarks/README.md.
"""

import sys

import litellm
import uvicorn
from ag_ui_crewai.endpoint import add_crewai_flow_fastapi_endpoint
from ag_ui_crewai.sdk import CopilotKitState, copilotkit_stream
from crewai.flow.flow import Flow, start
from fastapi import FastAPI

MODEL = sys.argv[2]


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


app = FastAPI()
add_crewai_flow_fastapi_endpoint(app, Chat(), "/run")


@app.get("/healthz")
async def healthz() -> str:
    return "ok"


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", loop="uvloop")

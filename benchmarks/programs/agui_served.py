"""Serves a flow with AG-UI's own integration of CrewAI, in whose environment it is imported: `<port> <model>`."""

import sys

import uvicorn
from ag_ui_crewai.endpoint import add_crewai_flow_fastapi_endpoint
from ag_ui_crewai.sdk import CopilotKitState
from crewai.flow.flow import Flow
from fastapi import FastAPI

MODEL = sys.argv[2]


def serve(flow: Flow[CopilotKitState]) -> None:
    app = FastAPI()
    add_crewai_flow_fastapi_endpoint(app, flow, "/run")

    @app.get("/healthz")
    async def healthz() -> str:
        return "ok"

    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", loop="uvloop")

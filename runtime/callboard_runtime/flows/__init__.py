"""Runs CrewAI Flows, such as those written for ag-ui-crewai, with the same journal and stream as crews."""

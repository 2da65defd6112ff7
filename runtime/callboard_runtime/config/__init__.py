"""Which agents run, with which models, prompts and tools: YAML files, a user's over them, the database over both."""

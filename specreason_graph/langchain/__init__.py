"""The loop as LangChain knows models: a chat model, its chunks and callbacks."""

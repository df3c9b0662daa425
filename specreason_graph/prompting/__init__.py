"""From a conversation to token ids and back: chat templates, think tags, tool calls."""

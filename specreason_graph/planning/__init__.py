"""Whether speculation pays, predicted without an engine: from a few figures of machine and models, and from records."""

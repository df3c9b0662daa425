"""What is kept of a run, and how it is sealed. Nothing here knows engines or graphs."""

"""Which settings pay on questions of the caller's own, and at what risk."""

"""Who writes the next step, what is enough, when the thinking ends: small functions on records."""

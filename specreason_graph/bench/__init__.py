"""Speed measurements of a pair: the loop in several scenarios, compared with the base model alone."""

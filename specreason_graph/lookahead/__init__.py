"""Engine work of a run that is started before a stage asks for it. No token depends on it: it costs or saves time."""

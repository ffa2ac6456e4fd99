"""Where the handlers of a step run, when that is not this machine."""

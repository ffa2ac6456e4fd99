"""Workers whose handler runs in another process, on another machine: a stand-in here, an actor there."""

"""aiagentchat's daemon: Matrix rooms on one side, one isolated runner per room on the other."""

__version__ = "0.1.0"

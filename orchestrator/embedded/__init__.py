"""The embedded homeserver and the offline model, for trying aiagentchat out."""

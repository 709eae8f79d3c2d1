"""``roomhub chat``: the client in a terminal, and in scripts as JSON, a line each."""

"""Messages to people: what a run has come to, and how it is sent by mail, webhook or command."""

"""The hop *accept*: an HTTP request becomes an intent and an outbox row in one transaction. Shared by the producers."""

"""Replay: a past window of a topic is copied to one arm, in Kafka transactions that carry their progress."""

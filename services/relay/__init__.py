"""The relay: outbox rows to Kafka records, several replicas, each owning its share of the shards."""

"""The publisher arm `cdc`: the inserts into its outbox, read from the write-ahead log, to Kafka records."""

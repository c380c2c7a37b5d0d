"""Kafka, as the processes share it: topics, the producer, group-less reading, and Faust made safe."""

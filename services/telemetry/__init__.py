"""Telemetry: one catalogue, from which alone metrics and log events can be made."""

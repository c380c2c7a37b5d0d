"""Pure words and decisions of the lab: no I/O, no framework, nothing that a process owns."""

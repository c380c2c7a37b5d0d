"""The command line: it composes the services, the stack and the load, and holds no behaviour of its own."""

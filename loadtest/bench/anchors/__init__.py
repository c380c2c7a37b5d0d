"""What the services are compared with: the same work with nothing but the work, each a process of its own."""

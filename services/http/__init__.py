"""HTTP as the producers and the provider speak it: bounded bodies, named faults, one way to serve and to end."""

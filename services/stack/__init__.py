"""The native stack: which parts there are, how each is installed, started, probed, killed and restarted."""

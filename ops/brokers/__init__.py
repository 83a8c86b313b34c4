"""Brokers for the demo (`embedded`) and for the tests (`real`): started, killed and restarted on loopback."""

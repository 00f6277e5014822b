"""Runs executions on Docker engines: as containers, or as services of a swarm."""

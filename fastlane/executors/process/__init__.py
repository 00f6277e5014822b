"""Runs executions as plain processes of this machine."""

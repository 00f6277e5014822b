"""Carries events: ``local`` inside this process, ``redis`` between instances."""

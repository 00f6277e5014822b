"""Where runs happen. ``base`` is the interface; everything else is one way to run a command."""

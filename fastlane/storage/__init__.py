"""Where the records live. ``base`` is the interface; everything else is one way to keep it."""

"""fastlane runs container jobs for whoever can send an HTTP request."""

__version__ = "0.1.0"

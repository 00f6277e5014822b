"""fastlane runs container jobs for anyone who can send an HTTP request."""

__version__ = "0.1.0"

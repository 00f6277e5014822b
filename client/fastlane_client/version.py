"""The version: that of the server which was released with this client."""

VERSION = "0.1.0"

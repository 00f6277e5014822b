"""Tornado templates; `fastlane.templates` in an installed package."""

"""Browser assets, served below ``/static/``; `fastlane.static` in an installed package."""

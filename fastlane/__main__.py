"""``python -m fastlane`` is ``fastlane``."""

from fastlane.cli import main

if __name__ == "__main__":
    main()

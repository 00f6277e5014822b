from tests.engine import registry

__all__ = ["registry"]

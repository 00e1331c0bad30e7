"""The engine: trains or loads a model, evaluates it with a fixed protocol, stores every verdict."""

__version__ = "0.2.0"

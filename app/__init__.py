"""The browser app: thin, read-only pages over SQL (``queries``) and pure chart functions."""

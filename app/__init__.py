"""The browser app: thin pages over SQL (``queries``) and pure charts; it only reads."""

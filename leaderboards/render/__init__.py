"""A rendered table as terminal text, Markdown, LaTeX, CSV, HTML and JSON."""

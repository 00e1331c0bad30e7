"""A table as terminal text, Markdown, LaTeX, CSV, HTML and JSON: one format a file."""

"""Tables rendered for the terminal and as Markdown, LaTeX, HTML, CSV, JSON and BibTeX."""

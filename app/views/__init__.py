"""One file per page; ``main`` runs the page that the URL names."""

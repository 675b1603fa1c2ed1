"""Records, and the small tools that every room uses: trees, checks, links, where arrays lie, files and tables."""

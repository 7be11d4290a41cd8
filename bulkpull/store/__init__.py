"""Where rows end up: a local file, atomic and synced."""

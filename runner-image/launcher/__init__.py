"""What of a workspace's configuration a room honours, read and handed to the CLI at its start."""

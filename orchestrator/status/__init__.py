"""The status page: what it shows, who may see it, and how it is served on loopback."""

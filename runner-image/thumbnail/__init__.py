"""Makes a small picture of a large one; runs in the room's container."""

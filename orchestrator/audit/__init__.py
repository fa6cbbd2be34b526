"""What the homeserver has, joined with the database: is every message accounted for?"""

"""`orchestrator doctor`: everything that the orchestrator needs, tried out, with what mends it.

It changes nothing that stays: it makes no session, no image and no file. Each part looks at one
dependency, and never raises for what it finds.
"""
